"""The lists of Labeled Faces in the Wild: view 1, view 2 and the people of the unrestricted setting.

The layouts are described in sections 3c and 3d of LFW's README.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.draw import draw_within_folds
from sfplus.datasets.pairs.pair_formats import PairFormat
from sfplus.datasets.pairs.table import FORBIDDEN, Pairs, split_into_folds
from sfplus.datasets.pairs.text import ACCEPTED, SEPARATORS, Line, no_pairs_error, read_lines
from sfplus.errors import PairsError
from sfplus.io.console import quantity
from sfplus.io.files import write_atomically

_REMEDY = "see the layout in LFW's pairs.txt, or get the file again"
_SAME, _DIFFERENT = "'name n1 n2'", "'name1 n1 name2 n2'"
_PHOTO = re.compile(r"(?P<name>[^/\t\r\n]+)/(?P=name)_(?P<number>\d{4,9})", re.ASCII)
_TEST, _TRAIN = "DevTest", "DevTrain"


def read_lfw(path: Path) -> Pairs:
    """Read a list in LFW's form: lines `name n1 n2` (same person) and `name1 n1 name2 n2` (different people).

    Photo n of a person is `name/name_%04d`. The header of `pairs.txt` (view 2) contains the number of folds and a
    number n; each fold has n lines of the same person and then n of different people. The header of view 1 is a single
    number n, and its pairs are split into 10 folds. Without header, or with words instead (Kaggle's `pairs.csv`), the
    folds are those of view 2 if the lines of both kinds alternate in its way, or else 10. Fields are separated by tabs,
    commas, semicolons or spaces.

    Raises:
        PairsError: If the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    lines = read_lines(path)
    if not lines:
        raise PairsError("is empty", where=path, remedy=ACCEPTED)
    separator = _separator(lines)
    header = lines[0].fields(separator)
    if 0 < len(header) < 3 and all(map(_is_number, header)):
        pairs = _read(path, lines, len(header))
        return pairs if len(header) == 2 else replace(pairs, fold=split_into_folds(pairs.same))
    rows = lines if _is_row(lines[0], separator) else lines[1:]
    if not rows or not _is_row(rows[0], separator):
        raise no_pairs_error(lines)
    same = np.array([len(line.fields(separator)) == 3 for line in rows], bool)
    left, right = zip(*(_parse(line, bool(s), separator) for line, s in zip(rows, same, strict=True)), strict=True)
    return Pairs(left, right, same, _alternating_folds(same))


def read_view_1(test: Path, train: Path) -> Pairs:
    """Read `pairsDevTest.txt`, whose pairs are tested, and `pairsDevTrain.txt`, whose pairs choose the threshold.

    The header of each file contains a number n; then come n lines of the same person and n lines of different people,
    as in view 2.

    Raises:
        PairsError: If a file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    tested, trained = (_read(path, read_lines(path), 1) for path in (test, train))
    fold = np.repeat(np.array([0, -2]), [len(tested), len(trained)])
    return Pairs(
        tested.left + trained.left, tested.right + trained.right, np.concatenate([tested.same, trained.same]), fold
    )


@dataclass(frozen=True, eq=False)
class PeopleList:
    """The people of LFW.

    Attributes:
        names: (N,) names.
        photos: (N,) int64, number of photos of each person.
        fold: (N,) int64, 0-based fold of each person; 0 in view 1.
    """

    names: tuple[str, ...]
    photos: NDArray[np.int64]
    fold: NDArray[np.int64]


def read_lfw_people(path: Path) -> PeopleList:
    """Read `people.txt` of view 2, or `peopleDevTrain.txt` or `peopleDevTest.txt` of view 1.

    The first line of view 2 contains the number of folds. Each fold is a line with a number n and then n lines
    `name<TAB>photos`.

    Raises:
        PairsError: If the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    lines = read_lines(path)
    remedy = "see people.txt in section 3d of LFW's README"

    def read_count(row: int) -> int:
        if row >= len(lines):
            raise PairsError("ends too early", where=path, remedy="get the file again")
        if not _is_number(lines[row].text.strip()):
            raise PairsError("does not start a fold with a number of people", where=lines[row].where, remedy=remedy)
        return int(lines[row].text)

    names: list[str] = []
    photos: list[int] = []
    sizes: list[int] = []
    separator = _separator(lines)
    has_folds = len(lines) > 1 and len(lines[1].fields(separator)) == 1
    row = int(has_folds)
    for _ in range(read_count(0) if has_folds else 1):
        sizes.append(read_count(row))
        for line in lines[row + 1 : row + 1 + sizes[-1]]:
            if not _is_person(line, separator) or FORBIDDEN.search(line.fields(separator)[0]):
                raise line.error("is not 'name<TAB>photos'", remedy)
            name, count = line.fields(separator)
            names.append(name)
            photos.append(int(count))
        row += 1 + sizes[-1]
    if row != len(lines):
        reason = f"has {quantity(len(lines), 'line')}, its headers announce {row}"
        raise PairsError(reason, where=path, remedy="get the file again")
    if len(set(names)) < len(names):
        raise PairsError("lists a person twice", where=path, remedy="get the file again")
    return PeopleList(tuple(names), np.array(photos, dtype=np.int64), np.repeat(np.arange(len(sizes)), sizes))


def unrestricted(pairs: Pairs, people: PeopleList, per_fold: int, seed: int) -> Pairs:
    """Return the pairs of LFW's unrestricted setting: the pairs of view 2 with more pairs to choose thresholds on.

    The pairs of view 2 are tested as before. The additional pairs are drawn among the people of each fold and are never
    tested.

    Args:
        pairs: the pairs of view 2.
        people: the people of view 2.
        per_fold: number of additional pairs of the same person, and of pairs of different people, in each fold.
        seed: seed of the random choices.

    Raises:
        PairsError: If a person of the pairs is not among the people of their fold.
        DatasetError: If a fold has too few photos.
    """
    fold_of = dict(zip(people.names, people.fold.tolist(), strict=True))
    for side in (pairs.left, pairs.right):
        for photo, k in zip(side, pairs.fold.tolist(), strict=True):
            if fold_of.get(photo.rpartition("/")[0]) != k:
                reason, remedy = f"is not among the people of fold {k}", "get people.txt of view 2"
                raise PairsError(reason, where=photo, remedy=remedy)
    groups: list[list[list[str]]] = [[] for _ in range(pairs.folds)]
    for name, photos, k in zip(people.names, people.photos.tolist(), people.fold.tolist(), strict=True):
        groups[k].append([_join_photo(name, str(n)) for n in range(1, photos + 1)])
    drawn = draw_within_folds(np.random.default_rng(seed), groups, per_fold)
    fold = np.concatenate([pairs.fold, -1 - drawn.fold])
    return Pairs(pairs.left + drawn.left, pairs.right + drawn.right, np.concatenate([pairs.same, drawn.same]), fold)


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs as `pairs.txt` of view 2; reading it returns the same pairs.

    Raises:
        PairsError: If the order of the pairs or the names do not fit the format; photos must be named `Name/Name_0001`.
    """
    folds, size = pairs.folds, len(pairs) // (2 * pairs.folds)
    same, fold = _layout(folds, size)
    if not (np.array_equal(pairs.same, same) and np.array_equal(pairs.fold, fold)):
        remedy = (
            "order each fold as n pairs of the same person, then n pairs of different people, with one n for all folds"
        )
        raise PairsError("the pairs do not fit LFW's format", where=path, remedy=remedy)
    lines = [f"{folds}\t{size}"]
    for left, right, is_same in zip(pairs.left, pairs.right, pairs.same, strict=True):
        (a, i), (b, j) = _split_photo(left), _split_photo(right)
        if (a == b) != is_same:
            raise PairsError(f"{left} and {right} contradict the label of their pair", where=path)
        lines.append(f"{a}\t{i}\t{j}" if is_same else f"{a}\t{i}\t{b}\t{j}")
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode("utf-8"))


def _read(path: Path, lines: list[Line], view: int) -> Pairs:
    """Read the lines of a list whose header has one number (view 1) or two (view 2)."""
    separator = _separator(lines)
    numbers = lines[0].fields(separator) if lines else []
    if len(numbers) != view or not all(_is_number(field) and int(field) > 0 for field in numbers):
        view_1, view_2 = "the number of pairs of each kind, '1100'", "the numbers of folds and of pairs, '10<TAB>300'"
        reason = f"the header must be {view_2 if view == 2 else view_1}"
        raise PairsError(reason, where=f"{path}:1", remedy=_REMEDY)
    folds, size = int(numbers[0]) if view == 2 else 1, int(numbers[-1])
    if len(lines) > 1 and all(_is_person(line, separator) or _is_number(line.text.strip()) for line in lines[1:]):
        raise PairsError("is a list of people, not of pairs", where=path, remedy="give LFW's pairs.txt")
    if len(lines) - 1 != 2 * folds * size:
        announced = f"{quantity(folds, 'fold')} x 2 x {size} = {2 * folds * size}"
        reason = f"has {quantity(len(lines) - 1, 'pair')}, its header announces {announced}"
        raise PairsError(reason, where=path, remedy="get the file again or correct its header")
    same, fold = _layout(folds, size)
    names = (_parse(line, bool(is_same), separator) for line, is_same in zip(lines[1:], same, strict=True))
    left, right = zip(*names, strict=True)
    return Pairs(left, right, same, fold)


def _separator(lines: Sequence[Line]) -> str:
    """Return the separator with which the first lines are pairs of LFW, or else a tab or spaces."""
    for separator in SEPARATORS:
        if any(_is_row(line, separator) for line in lines[:2]):
            return separator
    return "\t" if any("\t" in line.text for line in lines[:2]) else " "


def _is_row(line: Line, separator: str) -> bool:
    """Return True if a line has the fields of a pair: `name n1 n2` or `name1 n1 name2 n2`."""
    fields = line.fields(separator)
    return len(fields) in (3, 4) and _is_number(fields[1]) and _is_number(fields[-1])


def _is_person(line: Line, separator: str) -> bool:
    fields = line.fields(separator)
    return len(fields) == 2 and _is_number(fields[1])


def _is_lfw(path: Path) -> bool:
    """Return True if a list has LFW's header, or lines of both kinds and nothing else."""
    lines = read_lines(path)
    if not lines:
        return False
    header = lines[0].text.split()
    if len(header) < 3 and all(map(_is_number, header)):
        return True
    separator = _separator(lines)
    rows = lines if _is_row(lines[0], separator) else lines[1:]
    return all(_is_row(line, separator) for line in rows) and len({len(line.fields(separator)) for line in rows}) == 2


def _alternating_folds(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the folds of view 2 if runs of both kinds, all of one length, alternate; else those of a plain list."""
    change = np.flatnonzero(np.diff(same)) + 1
    size = int(change[0]) if len(change) else 0
    folds = len(same) // (2 * size) if size else 0
    if folds > 1 and np.array_equal(same, np.tile(np.repeat([True, False], size), folds)):
        return _layout(folds, size)[1]
    return split_into_folds(same)


def _layout(folds: int, size: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return `same` and `fold` of all pairs in the order of LFW's lists."""
    return np.tile(np.repeat([True, False], size), folds), np.repeat(np.arange(folds, dtype=np.int64), 2 * size)


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) < 10


def _parse(line: Line, same: bool, separator: str) -> tuple[str, str]:
    """Return the names of the two photos of a line."""
    fields = line.fields(separator)
    if len(fields) != (3 if same else 4) or not all(map(_is_number, fields[1:2] + fields[-1:])):
        raise line.error(
            f"is not a pair of {f'the same person, {_SAME}' if same else f'different people, {_DIFFERENT}'}"
        )
    names = (fields[0], fields[0]) if same else (fields[0], fields[2])
    if any(FORBIDDEN.search(name) for name in names):
        raise line.error("holds a name that may point outside the folder of photos", "use a plain name")
    if not same and names[0] == names[1]:
        raise line.error(f"is a pair of different people that names {names[0]!r} twice", "correct the line")
    return _join_photo(names[0], fields[1]), _join_photo(names[1], fields[-1])


def _join_photo(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _split_photo(photo: str) -> tuple[str, int]:
    """Return the person and the number of a photo, the inverse of `_join_photo`."""
    match = _PHOTO.fullmatch(photo)
    if not match or _join_photo(match["name"], match["number"]) != photo:
        raise PairsError("does not fit LFW's format", where=photo, remedy="name it Name/Name_0001")
    return match["name"], int(match["number"])


def _view_1_files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name.replace(_TEST, _TRAIN))]


FORMATS = (
    PairFormat(lambda path: _TEST in path.name, lambda path: read_view_1(*_view_1_files(path)), _view_1_files, 2),
    PairFormat(_is_lfw, read_lfw, priority=3),
    PairFormat(lambda path: True, read_lfw, priority=9),  # the last: it says what is accepted
)
