"""The lists of Labeled Faces in the Wild: view 1, view 2 and the people of the unrestricted setting.

The layouts are described in sections 3c and 3d of LFW's README.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.draw import draw_within_folds
from sfplus.datasets.pairs.pair_formats import PairFormat
from sfplus.datasets.pairs.table import FORBIDDEN, Pairs
from sfplus.datasets.pairs.text import Line, read_lines
from sfplus.errors import PairsError
from sfplus.io.files import write_atomically

_HEADER = "the first line must contain the number of folds and the pairs of each kind in a fold, such as '10<TAB>300'"
_HEADER_VIEW_1 = "the first line must contain the number of pairs of each kind, such as '1100'"
_SAME, _DIFFERENT = "'name n1 n2'", "'name1 n1 name2 n2'"
_PHOTO = re.compile(r"(?P<name>[^/\t\r\n]+)/(?P=name)_(?P<number>\d{4,9})", re.ASCII)
_TEST, _TRAIN = "DevTest", "DevTrain"


def read_view_2(path: Path) -> Pairs:
    """Read `pairs.txt` of view 2.

    The header contains the number of folds and a number n. Each fold has n lines `name n1 n2` (same person) and then n
    lines `name1 n1 name2 n2` (different people). Photo n of a person is `name/name_%04d`.

    Raises:
        PairsError: If the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    return _read(path, 2)


def read_view_1(test: Path, train: Path) -> Pairs:
    """Read `pairsDevTest.txt`, whose pairs are tested, and `pairsDevTrain.txt`, whose pairs choose the threshold.

    The header of each file contains a number n; then come n lines of the same person and n lines of different people,
    as in view 2.

    Raises:
        PairsError: If a file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    tested, trained = _read(test, 1), _read(train, 1)
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
        if len(lines[row].fields) != 1 or not _is_number(lines[row].fields[0]):
            raise PairsError("does not start a fold with a number of people", where=lines[row].where, remedy=remedy)
        return int(lines[row].fields[0])

    names: list[str] = []
    photos: list[int] = []
    sizes: list[int] = []
    has_folds = len(lines) > 1 and len(lines[1].fields) == 1
    row = int(has_folds)
    for _ in range(read_count(0) if has_folds else 1):
        sizes.append(read_count(row))
        for line in lines[row + 1 : row + 1 + sizes[-1]]:
            if len(line.fields) != 2 or not _is_number(line.fields[1]) or FORBIDDEN.search(line.fields[0]):
                raise PairsError(f"{line.text[:80]!r} is not 'name<TAB>photos'", where=line.where, remedy=remedy)
            names.append(line.fields[0])
            photos.append(int(line.fields[1]))
        row += 1 + sizes[-1]
    if row != len(lines):
        reason = f"has {len(lines)} lines, its headers announce {row}"
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


def _read(path: Path, view: int) -> Pairs:
    lines = read_lines(path)
    numbers = lines[0].fields if lines else []
    if len(numbers) != view or not all(_is_number(field) and int(field) > 0 for field in numbers):
        remedy = _HEADER if view == 2 else _HEADER_VIEW_1
        raise PairsError(f"has no header of LFW's view {view}", where=f"{path}:1", remedy=remedy)
    folds, size = int(numbers[0]) if view == 2 else 1, int(numbers[-1])
    if len(lines) - 1 != 2 * folds * size:
        reason = f"has {len(lines) - 1} pairs, its header announces {folds} folds x 2 x {size} = {2 * folds * size}"
        raise PairsError(reason, where=path, remedy="get the file again or correct its header")
    same, fold = _layout(folds, size)
    left, right = zip(*(_parse(line, bool(same[i])) for i, line in enumerate(lines[1:])), strict=True)
    return Pairs(left, right, same, fold)


def _layout(folds: int, size: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return `same` and `fold` of all pairs in the order of LFW's lists."""
    return np.tile(np.repeat([True, False], size), folds), np.repeat(np.arange(folds, dtype=np.int64), 2 * size)


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) < 10


def _parse(line: Line, same: bool) -> tuple[str, str]:
    """Return the names of the two photos of a line."""
    fields, where = line.fields, line.where
    if len(fields) != (3 if same else 4) or not all(map(_is_number, fields[1:2] + fields[-1:])):
        expected = f"a pair of the same person, {_SAME}" if same else f"a pair of different people, {_DIFFERENT}"
        remedy = "see the layout in LFW's pairs.txt"
        raise PairsError(f"{line.text[:80]!r} is not {expected}", where=where, remedy=remedy)
    names = (fields[0], fields[0]) if same else (fields[0], fields[2])
    for name in names:
        if FORBIDDEN.search(name):
            reason = f"the name {name[:80]!r} may point outside the folder of photos"
            raise PairsError(reason, where=where, remedy="use a plain name")
    if not same and names[0] == names[1]:
        raise PairsError(f"a pair of different people names {names[0]!r} twice", where=where, remedy="correct the line")
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
    PairFormat(lambda path: True, read_view_2, priority=9),  # the last: a malformed list is reported as one of view 2
)
