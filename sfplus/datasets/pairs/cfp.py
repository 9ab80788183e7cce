"""The pairs of CFP, Celebrities in Frontal-Profile: frontal with frontal (FF) or with profile (FP)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfplus.datasets.pairs.plain import without_suffix
from sfplus.datasets.pairs.table import FORBIDDEN, Pairs
from sfplus.datasets.pairs.text import read_lines
from sfplus.errors import PairsError

LISTS = {"FF": ("Pair_list_F.txt", "Pair_list_F.txt"), "FP": ("Pair_list_F.txt", "Pair_list_P.txt")}
_WHOLE = "it needs Pair_list_F.txt, Pair_list_P.txt, Split/FF and Split/FP with 01/same.txt, 01/diff.txt ..."


def cfp_files(folder: Path) -> list[Path]:
    """The files that `read_cfp` reads: two lists of photos, then same.txt and diff.txt of each fold.

    Raises:
        PairsError: the folder is not called FF or FP, or holds no folds.
    """
    if folder.name not in LISTS:
        raise PairsError("is no list of pairs", where=folder, remedy="for CFP name its folder Protocol/Split/FP or FF")
    splits = sorted(path.parent for path in folder.glob("*/same.txt"))
    if not splits:
        raise PairsError("holds no folds of CFP", where=folder, remedy=_WHOLE)
    lists = [folder.parent.parent / name for name in LISTS[folder.name]]
    return lists + [split / name for split in splits for name in ("same.txt", "diff.txt")]


def read_cfp(folder: Path) -> Pairs:
    """Read the pairs of CFP from the folder `Protocol/Split/FP` or `Protocol/Split/FF` of the official archive.

    Each line `i,j` of a fold names photos by their numbers in `Pair_list_F.txt` (frontal) and, for FP on the right,
    in `Pair_list_P.txt` (profile). Photos are named as in `Data/Images`: `001/frontal/01`.

    Raises:
        PairsError: files are missing, or a line is malformed (`where` is `file:line`).
    """
    first, second, *splits = cfp_files(folder)
    photos = _photos(first), _photos(second)
    sides: tuple[list[str], list[str]] = [], []
    same: list[bool] = []
    fold: list[int] = []
    for k, path in enumerate(splits):
        for line in read_lines(path, ","):
            numbers = [int(field) if field.isdecimal() and len(field) < 10 else -1 for field in line.fields]
            if len(numbers) != 2 or any(n not in listed for n, listed in zip(numbers, photos, strict=False)):
                reason = f"{line.text[:80]!r} is no pair of photos of the lists"
                raise PairsError(reason, where=line.where, remedy="get CFP's Protocol folder again")
            for side, listed, n in zip(sides, photos, numbers, strict=True):
                side.append(listed[n])
            same.append(path.name == "same.txt")
            fold.append(k // 2)
    return Pairs(tuple(sides[0]), tuple(sides[1]), np.array(same, bool), np.array(fold, np.int64))


def _photos(path: Path) -> dict[int, str]:
    """Photo names by number, from lines `1 ../Data/Images/001/frontal/01.jpg`."""
    names = {}
    for line in read_lines(path, ""):
        number, name = line.fields if len(line.fields) == 2 else ("", "")
        name = name.removeprefix("../").removeprefix("Data/").removeprefix("Images/")
        if not (number.isdecimal() and len(number) < 10) or any(FORBIDDEN.search(part) for part in name.split("/")):
            reason = f"{line.text[:80]!r} is not 'number ../Data/Images/person/frontal/number.jpg'"
            raise PairsError(reason, where=line.where, remedy="get CFP's Protocol folder again")
        names[int(number)] = without_suffix(name)
    return names
