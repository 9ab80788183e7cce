"""The name of the data set that a pair list belongs to, for the title and the folder of a report."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sfplus.datasets.pairs.pair_formats import read_pairs
from sfplus.datasets.pairs.table import Pairs
from sfplus.errors import SfplusError

LFW = "LFW"
_LFW_SHA256 = "2ec8a35d4e41577de6f863fec76fdb2b52f7b2c27609e3b799b0ad240b87ec64"  # of its pairs.txt, view 2
_LFW_BYTES = 1 << 20  # larger lists cannot be LFW's, and are not read to find out
_GENERIC = frozenset({
    "", "crops", "data", "dataset", "faces", "images", "list", "pair", "pair_list", "pairs", "photos", "test", "val",
})  # fmt: skip


def pairs_digest(pairs: Pairs) -> str:
    """Return the SHA-256 of the content of a pair list, whatever its format, line ends or encoding."""
    rows = zip(pairs.left, pairs.right, pairs.same.astype(int).tolist(), pairs.fold.tolist(), strict=True)
    return hashlib.sha256("".join(f"{a}\t{b}\t{label}\t{fold}\n" for a, b, label, fold in rows).encode()).hexdigest()


def is_lfw(pairs: Path) -> bool:
    """Return whether a file lists the 6,000 pairs of LFW's view 2, in any format."""
    try:
        return pairs.is_file() and pairs.stat().st_size < _LFW_BYTES and pairs_digest(read_pairs(pairs)) == _LFW_SHA256
    except (SfplusError, OSError):
        return False  # a malformed list is reported where its pairs are read


def dataset_name(pairs: Path, photos: Path | None = None) -> str:
    """Return the name of the data set of a pair list: `LFW` for its pairs, else the name of the file or of its folder.

    Args:
        pairs: The list, or the folder of pairs (CFP).
        photos: The folder of photos; a list with a name such as `pairs.txt` is named by the first telling folder of
            the photos, then of the list.

    Returns:
        A name on one line, not empty. Only the pairs of LFW are called `LFW`, in any case of the letters.
    """
    if is_lfw(pairs):
        return LFW
    places = [pairs.name if pairs.is_dir() else pairs.stem]
    places += [part for path in (photos, pairs.parent) if path for part in reversed(path.resolve().parts[1:][-2:])]
    name = next((place for place in places if place.lower() not in _GENERIC), "pairs")
    return f"{name} (not LFW's pairs)" if name.lower() == "lfw" else name


def dataset_folder(name: str) -> str:
    """Return the name of a data set as the name of a folder: lower case, with dashes for all but letters and digits."""
    return re.sub(r"[^\w.]+", "-", name.lower().replace("'", "")).strip("-._") or "pairs"
