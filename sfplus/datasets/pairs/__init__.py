"""Lists of pairs of photos: read, write and draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfplus.datasets.pairs.cfp import cfp_files, read_cfp
from sfplus.datasets.pairs.draw import draw_pairs
from sfplus.datasets.pairs.lfw_lists import PeopleList, read_people, read_view_1, read_view_2, unrestricted, write_pairs
from sfplus.datasets.pairs.plain import is_plain, read_plain, without_suffix, write_plain
from sfplus.datasets.pairs.table import Pairs, People
from sfplus.datasets.pairs.text import read_lines
from sfplus.datasets.verification_bin import bin_name, read_bin

__all__ = [
    "Pairs", "People", "PeopleList", "draw_pairs", "pair_files", "read_cfp", "read_pairs", "read_people", "read_plain",
    "read_view_1", "read_view_2", "unrestricted", "without_suffix", "write_pairs", "write_plain",
]  # fmt: skip

_TEST, _TRAIN = "DevTest", "DevTrain"
_BIN_FOLDS = 10


def read_pairs(path: Path) -> Pairs:
    """Read a list of pairs in any of the formats that sfplus knows.

    - LFW's view 2, `pairs.txt` (`read_view_2`);
    - LFW's view 1, `pairsDevTest.txt` with `pairsDevTrain.txt` beside it (`read_view_1`);
    - lines `path path label` with an optional fold, separated by tabs, commas or spaces (`read_plain`);
    - CFP's folder `Protocol/Split/FP` or `FF` (`read_cfp`);
    - insightface's `.bin` (`read_bin`): photos are called by their numbers, `00000`, in 10 folds in their order.

    Raises:
        PairsError: it is missing or malformed; `where` is `file:line` where it is a line.
    """
    if path.is_dir():
        return read_cfp(path)
    if path.suffix.lower() == ".bin":
        found = read_bin(path)
        folds = np.array_split(np.arange(len(found.same)), min(_BIN_FOLDS, len(found.same)))  # as scikit-learn's KFold
        fold = np.repeat(np.arange(len(folds)), [len(members) for members in folds])
        left, right = (tuple(bin_name(i) for i in side.tolist()) for side in (found.left, found.right))
        return Pairs(left, right, found.same, fold)
    if _TEST in path.name:
        return read_view_1(path, path.with_name(path.name.replace(_TEST, _TRAIN)))
    lines = read_lines(path, "\t,")
    return read_plain(path) if lines and is_plain(lines[0].fields) else read_view_2(path)


def pair_files(path: Path) -> list[Path]:
    """The files that `read_pairs` reads, for fingerprints."""
    if path.is_dir():
        return cfp_files(path)
    return [path, path.with_name(path.name.replace(_TEST, _TRAIN))] if _TEST in path.name else [path]
