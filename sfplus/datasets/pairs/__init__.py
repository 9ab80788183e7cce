"""Lists of pairs of photos: read, write and draw them."""

from sfplus.datasets.pairs.cfp import read_cfp
from sfplus.datasets.pairs.draw import draw_pairs
from sfplus.datasets.pairs.insightface_bin import read_bin_pairs
from sfplus.datasets.pairs.lfw_lists import (
    PeopleList,
    read_lfw,
    read_lfw_people,
    read_view_1,
    unrestricted,
    write_pairs,
)
from sfplus.datasets.pairs.match import Match, match_photos
from sfplus.datasets.pairs.pair_formats import PairFormat, pair_files, read_pairs
from sfplus.datasets.pairs.plain import read_plain, without_suffix, write_plain
from sfplus.datasets.pairs.table import Pairs, People

__all__ = [
    "Match", "PairFormat", "Pairs", "People", "PeopleList", "draw_pairs", "match_photos", "pair_files",
    "read_bin_pairs", "read_cfp", "read_lfw", "read_lfw_people", "read_pairs", "read_plain", "read_view_1",
    "unrestricted", "without_suffix", "write_pairs", "write_plain",
]  # fmt: skip
