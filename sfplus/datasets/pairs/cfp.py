"""The pairs of CFP, Celebrities in Frontal-Profile: frontal-frontal (FF) and frontal-profile (FP)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfplus.datasets.pairs.pair_formats import PairFormat
from sfplus.datasets.pairs.plain import without_suffix
from sfplus.datasets.pairs.table import FORBIDDEN, Pairs
from sfplus.datasets.pairs.text import read_lines
from sfplus.errors import PairsError

_PHOTO_LISTS = {"FF": ("Pair_list_F.txt", "Pair_list_F.txt"), "FP": ("Pair_list_F.txt", "Pair_list_P.txt")}
_LAYOUT = "it needs Pair_list_F.txt, Pair_list_P.txt, Split/FF and Split/FP with 01/same.txt, 01/diff.txt ..."


def cfp_files(folder: Path) -> list[Path]:
    """Return the files that `read_cfp` reads: two lists of photos, then same.txt and diff.txt of each fold.

    Raises:
        PairsError: If the folder is not named FF or FP, or contains no folds.
    """
    if folder.name not in _PHOTO_LISTS:
        remedy = "for CFP give its folder Protocol/Split/FP or FF"
        raise PairsError("is not a list of pairs", where=folder, remedy=remedy)
    folds = sorted(path.parent for path in folder.glob("*/same.txt"))
    if not folds:
        raise PairsError("contains no folds of CFP", where=folder, remedy=_LAYOUT)
    photo_lists = [folder.parent.parent / name for name in _PHOTO_LISTS[folder.name]]
    return photo_lists + [fold / name for fold in folds for name in ("same.txt", "diff.txt")]


def read_cfp(folder: Path) -> Pairs:
    """Read the pairs of CFP from the folder `Protocol/Split/FP` or `Protocol/Split/FF` of the official archive.

    A line `i,j` of a fold gives the numbers of two photos in `Pair_list_F.txt` (frontal); for FP, the second is a
    number in `Pair_list_P.txt` (profile). Photos are named as in `Data/Images`: `001/frontal/01`.

    Raises:
        PairsError: If files are missing, or a line is malformed (`where` is `file:line`).
    """
    first, second, *fold_files = cfp_files(folder)
    photos = _read_photo_list(first), _read_photo_list(second)
    sides: tuple[list[str], list[str]] = [], []
    same: list[bool] = []
    fold: list[int] = []
    for index, path in enumerate(fold_files):
        for line in read_lines(path):
            numbers = [int(field) if field.isdecimal() and len(field) < 10 else -1 for field in line.fields(",")]
            if len(numbers) != 2 or any(number not in names for number, names in zip(numbers, photos, strict=False)):
                reason = f"{line.text[:80]!r} is not a pair of photos of the lists"
                raise PairsError(reason, where=line.where, remedy="get CFP's Protocol folder again")
            for side, names, number in zip(sides, photos, numbers, strict=True):
                side.append(names[number])
            same.append(path.name == "same.txt")
            fold.append(index // 2)
    return Pairs(tuple(sides[0]), tuple(sides[1]), np.array(same, bool), np.array(fold, np.int64))


def _read_photo_list(path: Path) -> dict[int, str]:
    """Return photo names by number from lines `1 ../Data/Images/001/frontal/01.jpg`."""
    names = {}
    for line in read_lines(path):
        number, name = (*line.text.split(maxsplit=1), "")[:2]
        name = name.removeprefix("../").removeprefix("Data/").removeprefix("Images/")
        if not (number.isdecimal() and len(number) < 10) or any(FORBIDDEN.search(part) for part in name.split("/")):
            reason = f"{line.text[:80]!r} is not 'number ../Data/Images/person/frontal/number.jpg'"
            raise PairsError(reason, where=line.where, remedy="get CFP's Protocol folder again")
        names[int(number)] = without_suffix(name)
    return names


FORMATS = (PairFormat(Path.is_dir, read_cfp, cfp_files, priority=0),)
