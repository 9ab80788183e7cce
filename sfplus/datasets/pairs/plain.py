"""Plain lists of pairs: lines `path path label`, or `path path label fold`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.pair_formats import PairFormat
from sfplus.datasets.pairs.table import FORBIDDEN, Pairs
from sfplus.datasets.pairs.text import read_lines
from sfplus.errors import PairsError
from sfplus.images import PHOTO_SUFFIXES
from sfplus.io.files import write_atomically

_LABELS = {
    "1": True, "true": True, "same": True, "0": False, "-1": False, "false": False, "different": False, "diff": False,
}  # fmt: skip
_SEPARATORS = "\t,"
_DEFAULT_FOLDS = 10
_LAYOUT = "lines must be 'path path label' with a label 1 or 0, or 'path path label fold' with a fold 0, 1, 2 ..."


def read_plain(path: Path) -> Pairs:
    """Read a plain list of pairs.

    Fields are separated by tabs, commas or white space; the label may also come first (OpenSphere). Labels are 1, 0,
    -1, true, false, same or different. If there are no folds, the pairs of each kind are split, in their order, into 10
    folds of equal size. Photos are named with or without extension.

    Raises:
        PairsError: If the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    lines = read_lines(path, _SEPARATORS)
    if not lines:
        raise PairsError("is empty", where=path, remedy=_LAYOUT)
    first = lines[0].fields
    width = len(first)
    label_column = 2 if width in (3, 4) and _label(first[2]) is not None else 0
    left: list[str] = []
    right: list[str] = []
    same: list[bool] = []
    fold: list[int] = []
    for line in lines:
        fields = [field.strip() for field in line.fields]
        label = _label(fields[label_column]) if len(fields) == width and width in (3, 4) else None
        if label is None:
            raise PairsError(f"{line.text[:80]!r} is not a pair", where=line.where, remedy=_LAYOUT)
        names = [field for i, field in enumerate(fields[:3]) if i != label_column]
        for name in names:
            if name.startswith("/") or any(FORBIDDEN.search(part) for part in name.split("/")):
                reason = f"the name {name[:80]!r} may point outside the folder of photos"
                raise PairsError(reason, where=line.where, remedy="use paths relative to the folder of photos")
        if width == 4:
            if not fields[3].removeprefix("-").isdecimal() or len(fields[3]) > 6:
                raise PairsError(f"{fields[3][:80]!r} is not a fold", where=line.where, remedy=_LAYOUT)
            fold.append(int(fields[3]))
        left.append(without_suffix(names[0]))
        right.append(without_suffix(names[1]))
        same.append(label)
    labels = np.array(same)
    folds = np.array(fold, dtype=np.int64) if width == 4 else _split_into_folds(labels)
    try:
        return Pairs(tuple(left), tuple(right), labels, folds)
    except PairsError as error:
        raise PairsError(error.reason, where=path, remedy=error.remedy or _LAYOUT) from error


def write_plain(path: Path, pairs: Pairs) -> None:
    """Write pairs as a plain list with folds; reading it returns the same pairs.

    Raises:
        PairsError: If a name contains a tab or a line break, starts or ends with white space, or ends with the suffix
            of a photo.
    """
    for name in pairs.photos:
        if name != name.strip() or any(c in name for c in "\t\r\n") or without_suffix(name) != name:
            raise PairsError("cannot be written to a plain list of pairs", where=name, remedy="rename the photo")
    rows = zip(pairs.left, pairs.right, pairs.same.astype(int).tolist(), pairs.fold.tolist(), strict=True)
    write_atomically(path, "".join(f"{a}\t{b}\t{label}\t{fold}\n" for a, b, label, fold in rows).encode())


def without_suffix(name: str) -> str:
    """Return the name of a photo without its file extension, if it has one."""
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PHOTO_SUFFIXES else name


def _is_plain(path: Path) -> bool:
    """Return True if the first line of a list is a line of a plain list."""
    lines = read_lines(path, _SEPARATORS)
    return bool(lines) and _has_label(lines[0].fields)


def _has_label(fields: Sequence[str]) -> bool:
    return len(fields) in (3, 4) and (
        _label(fields[2]) is not None or (len(fields) == 3 and _label(fields[0]) is not None)
    )


def _label(field: str) -> bool | None:
    return _LABELS.get(field.strip().lower())


def _split_into_folds(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    sizes = int(same.sum()), int((~same).sum())
    folds = max(1, min(_DEFAULT_FOLDS, *sizes))
    fold = np.empty(len(same), np.int64)
    for kind, size in ((same, sizes[0]), (~same, sizes[1])):
        fold[kind] = np.arange(size) * folds // max(size, 1)
    return fold


FORMATS = (PairFormat(_is_plain, read_plain, priority=3),)
