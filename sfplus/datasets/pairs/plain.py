"""Plain lists of pairs: lines `path path label` or `label path path`, with an optional fold and header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.pair_formats import PairFormat
from sfplus.datasets.pairs.table import Pairs, split_into_folds
from sfplus.datasets.pairs.text import (
    ACCEPTED,
    PHOTO_ENDS,
    SEPARATORS,
    Line,
    is_number,
    may_be_header,
    no_pairs_error,
    read_lines,
)
from sfplus.errors import PairsError, one_line
from sfplus.images import PHOTO_SUFFIXES
from sfplus.io.files import write_atomically

# Words of labels and headers, in lower case without white space, "_" and "-".
_SAME = frozenset({
    "true", "t", "yes", "y", "same", "sameperson", "match", "matched", "genuine", "mated", "positive", "pos",
})  # fmt: skip
_DIFFERENT = frozenset({
    "false", "f", "no", "n", "different", "differentperson", "differentpeople", "diff", "notsame", "mismatch",
    "mismatched", "nomatch", "nonmatch", "impostor", "imposter", "nonmated", "negative", "neg",
})  # fmt: skip
_LABEL_WORDS = frozenset({"label", "labels", "same", "sameperson", "match", "target", "y", "issame", "gt", "class"})
_FOLD_WORDS = frozenset({"fold", "folds", "foldid", "kfold", "split", "set", "group", "partition", "subset"})
_INDEX_WORDS = frozenset({"", "index", "id", "no", "number", "pair", "pairid"})


class _Columns(NamedTuple):
    """The layout of a plain list: its separator and the columns of the fields."""

    separator: str
    width: int
    names: tuple[int, int]
    label: int
    fold: int | None
    has_header: bool = False


def read_plain(path: Path) -> Pairs:
    """Read a plain list of pairs.

    Fields are separated by tabs, commas, semicolons or spaces and may be quoted; the label is in the third column or in
    the first (OpenSphere), the fold, if there is one, in the fourth; a fold or an index in front of both names and the
    label is recognised too. A header is skipped; where it names the columns (label, fold, index), they may have another
    order, and columns of other things are left out. Labels are 1, 0, -1 (also 1.0), true, false, yes, no, same or
    different, in any case. Folds count from 0 or 1; without folds, the pairs of each kind are split, in their order,
    into 10 folds of equal size. Names are paths in the folder of photos, with or without extension; `\\`, `./` and
    absolute paths are accepted (see `match_photos`).

    Raises:
        PairsError: If the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    lines = read_lines(path)
    if not lines:
        raise PairsError("is empty", where=path, remedy=ACCEPTED)
    columns = find_columns(lines)
    if columns is None:
        raise no_pairs_error(lines)
    columns = _label_behind(columns, lines)
    sides: tuple[list[str], list[str]] = [], []
    same: list[bool] = []
    fold: list[int] = []
    for line in lines[columns.has_header :]:
        fields = line.fields(columns.separator)
        label = _label(fields[columns.label]) if len(fields) == columns.width else None
        if label is None:
            raise line.error("is not a pair")
        for side, column in zip(sides, columns.names, strict=True):
            side.append(_relative_name(fields[column], line))
        same.append(label)
        if columns.fold is not None:
            fold.append(_fold(fields[columns.fold], line))
    labels = np.array(same, bool)
    try:
        folds = _from_zero(np.array(fold, np.int64)) if fold else split_into_folds(labels)
        return Pairs(tuple(sides[0]), tuple(sides[1]), labels, folds)
    except PairsError as error:
        raise PairsError(error.reason, where=path, remedy=error.remedy or ACCEPTED) from error


def write_plain(path: Path, pairs: Pairs) -> None:
    """Write pairs as a plain list with folds; reading it returns the same pairs.

    Raises:
        PairsError: If a name cannot be written, see `can_write`.
    """
    for name in pairs.photos:
        if not can_write(name):
            raise PairsError("cannot be written to a plain list of pairs", where=name, remedy="rename the photo")
    rows = zip(pairs.left, pairs.right, pairs.same.astype(int).tolist(), pairs.fold.tolist(), strict=True)
    write_atomically(path, "".join(f"{a}\t{b}\t{label}\t{fold}\n" for a, b, label, fold in rows).encode())


def can_write(name: str) -> bool:
    """Return whether a plain list can hold the name of a photo, so that reading it returns the same name.

    It cannot hold names with quotes, backslashes or control characters, that start with `#`, `'` or a drive, or that
    start or end with white space.
    """
    is_path = name == name.strip() and not any(c in name for c in '"\\') and name[1:3] != ":/"
    return is_path and not name.startswith(("#", "'")) and one_line(name) == name


def without_suffix(name: str) -> str:
    """Return the name of a photo without its file extension, if it has one."""
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PHOTO_SUFFIXES else name


def find_columns(lines: Sequence[Line]) -> _Columns | None:
    """Return the columns of a plain list, from its first line and the one after it, or None if it is not one."""
    for separator in SEPARATORS:
        rows = [line.fields(separator) for line in lines[:2]]
        first = _columns_by_position(separator, rows[0])
        if len(rows) < 2 or len(rows[0]) != len(rows[1]):
            if first:
                return first  # if the second line is malformed, it will be named
            continue
        second = _columns_by_header(separator, *rows) or _columns_by_position(separator, rows[1])
        if first and second and not _is_header(rows[0][first.label], rows[1][first.label]):
            return first
        if second and may_be_header(rows[0]):
            is_fold = second.fold is not None and _word(rows[0][second.fold]) in _FOLD_WORDS
            return second._replace(has_header=True, fold=second.fold if is_fold else None)
        if first:
            return first
    return None


def _is_header(label: str, next_label: str) -> bool:
    """Return True if `label` is a word of a header, such as "same", above labels that are numbers."""
    return _word(label) in _SAME | _DIFFERENT and _word(next_label) not in _SAME | _DIFFERENT


def _label_behind(columns: _Columns, lines: Sequence[Line]) -> _Columns:
    """Return the columns of lines `number path path label`, which look like `label path path fold` in one line.

    Raises:
        PairsError: If both fields could be the label of every line.
    """
    if columns.has_header or (columns.label, columns.fold) != (0, 3):
        return columns
    rows = [line.fields(columns.separator) for line in lines]
    first, last = ({row[i] for row in rows if len(row) == columns.width} for i in (0, 3))
    if any(_label(field) is None for field in last):
        return columns
    if any(_label(field) is None for field in first):
        return columns._replace(label=3, fold=0 if len(first) < len(rows) else None)
    if len(last) > 1:
        remedy = "name the columns in a header: path1, path2, label, fold"
        raise lines[0].error("has two fields that could be the label, in this line and in all others", remedy)
    return columns


def _columns_by_position(separator: str, row: Sequence[str]) -> _Columns | None:
    if len(row) in (3, 4):
        fold = 3 if len(row) == 4 else None
        if fold is None or _is_integer(row[fold]):
            if _label(row[2]) is not None:
                return _Columns(separator, len(row), (0, 1), 2, fold)
            if _label(row[0]) is not None:
                return _Columns(separator, len(row), (1, 2), 0, fold)
    return None


def _columns_by_header(separator: str, header: Sequence[str], row: Sequence[str]) -> _Columns | None:
    """Return the columns that a header names: label, fold and index; the two that are left name the photos."""
    words = ["" if _word(field).startswith("unnamed") else _word(field) for field in header]
    label = next((i for i, word in enumerate(words) if word in _LABEL_WORDS), None)
    fold = next((i for i, word in enumerate(words) if word in _FOLD_WORDS), None)
    names = [i for i, word in enumerate(words) if i not in (label, fold) and word not in _INDEX_WORDS]
    if len(names) > 2:  # also names of people, scores
        names = [i for i in names if row[i].lower().endswith(PHOTO_ENDS)]
    if label is None or len(names) != 2 or _label(row[label]) is None:
        return None
    return _Columns(separator, len(row), (names[0], names[1]), label, fold)


def _is_plain(path: Path) -> bool:
    lines = read_lines(path)
    return bool(lines) and find_columns(lines) is not None


def _label(field: str) -> bool | None:
    word = _word(field)
    if word in _SAME or word in _DIFFERENT:
        return word in _SAME
    return {1.0: True, 0.0: False, -1.0: False}.get(float(field)) if is_number(field) else None


def _word(field: str) -> str:
    return "".join(field.lower().replace("_", " ").replace("-", " ").split())


def _relative_name(field: str, line: Line) -> str:
    """Return a path with `/`, without `./`, drive and leading `/`."""
    if not field:
        raise line.error("has no name of a photo where one is expected")
    parts = [part for part in field.replace("\\", "/").split("/") if part not in ("", ".")]
    if len(parts) > 1 and len(parts[0]) == 2 and parts[0][0].isalpha() and parts[0][1] == ":":
        parts = parts[1:]
    if not parts or ".." in parts:
        raise line.error("holds a path that may point outside the folder of photos", "use paths without ..")
    return "/".join(parts)


def _is_integer(field: str) -> bool:
    number = field.removesuffix(".0").removeprefix("-")
    return number.isascii() and number.isdecimal() and len(number) < 7


def _fold(field: str, line: Line) -> int:
    if not _is_integer(field):
        raise line.error(f"has the fold {field[:40]!r}, which is not a whole number", "number the folds 0, 1, 2 ...")
    return int(field.removesuffix(".0"))


def _from_zero(fold: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return folds that count from 0, where the list counts from 1."""
    return fold - 1 if fold.min() == 1 else fold


FORMATS = (PairFormat(_is_plain, read_plain, priority=4),)
