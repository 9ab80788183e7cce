"""The lists of Labeled Faces in the Wild: view 1, view 2 and the people of the unrestricted setting.

Layouts: sections 3c and 3d of LFW's README.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.draw import draw_among
from sfplus.datasets.pairs.table import FORBIDDEN, Pairs
from sfplus.datasets.pairs.text import Line, read_lines
from sfplus.errors import PairsError
from sfplus.io.files import write_atomically

_HEADER = "the first line must hold the number of folds and the pairs of each kind in a fold, as in '10<TAB>300'"
_SAME, _DIFFERENT = "'name n1 n2'", "'name1 n1 name2 n2'"
_PHOTO = re.compile(r"(?P<name>[^/\t\r\n]+)/(?P=name)_(?P<number>\d{4,9})", re.ASCII)


def read_view_2(path: Path) -> Pairs:
    """Read `pairs.txt` of view 2.

    The header holds the number of folds and n; then come, fold by fold, n lines `name n1 n2` (one person) and n lines
    `name1 n1 name2 n2` (two people). Photo n of a person is `name/name_%04d`.

    Raises:
        PairsError: the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    return _read(path, 2)


def read_view_1(test: Path, train: Path) -> Pairs:
    """Read `pairsDevTest.txt` and `pairsDevTrain.txt` of view 1: the first is tested, the second chooses the threshold.

    The header of each holds n; then come n lines of one person and n of two, as in view 2.

    Raises:
        PairsError: as `read_view_2`.
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
        names: (N,) names of people.
        photos: (N,) int64, how many photos each has.
        fold: (N,) int64, 0-based fold of each; all 0 in view 1.
    """

    names: tuple[str, ...]
    photos: NDArray[np.int64]
    fold: NDArray[np.int64]


def read_people(path: Path) -> PeopleList:
    """Read `people.txt` of view 2, or `peopleDevTrain.txt` or `peopleDevTest.txt` of view 1.

    View 2's first line holds the number of folds. Each fold is a line with n, then n lines `name<TAB>photos`.

    Raises:
        PairsError: the file cannot be read, or a line is malformed (`where` is `file:line`).
    """
    lines = read_lines(path)
    remedy = "see people.txt in section 3d of LFW's README"

    def number(at: int) -> int:
        if at >= len(lines):
            raise PairsError("ends too early", where=path, remedy="get the file again")
        if len(lines[at].fields) != 1 or not _is_number(lines[at].fields[0]):
            raise PairsError("no number of people stands where a fold begins", where=lines[at].where, remedy=remedy)
        return int(lines[at].fields[0])

    names: list[str] = []
    photos: list[int] = []
    sizes: list[int] = []
    at = int(len(lines) > 1 and len(lines[1].fields) == 1)  # view 2: after the number of folds
    for _ in range(number(0) if at else 1):
        sizes.append(number(at))
        for line in lines[at + 1 : at + 1 + sizes[-1]]:
            if len(line.fields) != 2 or not _is_number(line.fields[1]) or FORBIDDEN.search(line.fields[0]):
                raise PairsError(f"{line.text[:80]!r} is not 'name<TAB>photos'", where=line.where, remedy=remedy)
            names.append(line.fields[0])
            photos.append(int(line.fields[1]))
        at += 1 + sizes[-1]
    if at != len(lines) or len(set(names)) < len(names):
        reason = f"holds {len(lines)} lines, its headers say {at}" if at != len(lines) else "names a person twice"
        raise PairsError(reason, where=path, remedy="get the file again")
    return PeopleList(tuple(names), np.array(photos, dtype=np.int64), np.repeat(np.arange(len(sizes)), sizes))


def unrestricted(pairs: Pairs, people: PeopleList, per_fold: int, seed: int) -> Pairs:
    """LFW's unrestricted setting: within each fold's people, more pairs are drawn to choose thresholds on.

    The pairs of view 2 are tested as before; the drawn ones never are.

    Args:
        pairs: those of view 2.
        people: those of view 2.
        per_fold: pairs of one person drawn in each fold, and as many of two people.
        seed: another seed draws other pairs.

    Raises:
        PairsError: a person of the pairs is not among the people of their fold.
        DatasetError: a fold has too few photos.
    """
    fold_of = dict(zip(people.names, people.fold.tolist(), strict=True))
    for side in (pairs.left, pairs.right):
        for photo, k in zip(side, pairs.fold.tolist(), strict=True):
            if fold_of.get(photo.rpartition("/")[0]) != k:
                reason, remedy = f"is not among the people of fold {k}", "get people.txt of view 2"
                raise PairsError(reason, where=photo, remedy=remedy)
    groups: list[list[list[str]]] = [[] for _ in range(pairs.folds)]
    for name, photos, k in zip(people.names, people.photos.tolist(), people.fold.tolist(), strict=True):
        groups[k].append([_photo(name, str(n)) for n in range(1, photos + 1)])
    drawn = draw_among(np.random.default_rng(seed), groups, per_fold)
    fold = np.concatenate([pairs.fold, -1 - drawn.fold])
    return Pairs(pairs.left + drawn.left, pairs.right + drawn.right, np.concatenate([pairs.same, drawn.same]), fold)


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs as `pairs.txt` of view 2; reading them back gives the same pairs.

    Raises:
        PairsError: the order or the names do not fit the format (photos must be called `Name/Name_0001`).
    """
    folds, size = pairs.folds, len(pairs) // (2 * pairs.folds)
    same = np.tile(np.repeat([True, False], size), folds)
    fold = np.repeat(np.arange(folds), 2 * size)
    if not (np.array_equal(pairs.same, same) and np.array_equal(pairs.fold, fold)):
        remedy = "order each fold as n pairs of one person, then n pairs of two people, with one n for all folds"
        raise PairsError("the pairs do not fit LFW's format", where=path, remedy=remedy)
    lines = [f"{folds}\t{size}"]
    for left, right, is_same in zip(pairs.left, pairs.right, pairs.same, strict=True):
        (a, i), (b, j) = _split(left), _split(right)
        if (a == b) != is_same:
            raise PairsError(f"{left} and {right} contradict the label of their pair", where=path)
        lines.append(f"{a}\t{i}\t{j}" if is_same else f"{a}\t{i}\t{b}\t{j}")
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode("utf-8"))


def _read(path: Path, view: int) -> Pairs:
    lines = read_lines(path)
    numbers = lines[0].fields if lines else []
    if len(numbers) != view or not all(_is_number(field) and int(field) > 0 for field in numbers):
        remedy = _HEADER if view == 2 else "the first line must hold the number of pairs of each kind, as in '1100'"
        raise PairsError(f"has no header of LFW's view {view}", where=f"{path}:1", remedy=remedy)
    folds, size = int(numbers[0]) if view == 2 else 1, int(numbers[-1])
    if len(lines) - 1 != 2 * folds * size:
        reason = f"holds {len(lines) - 1} pairs, but its header says {folds} folds x 2 x {size} = {2 * folds * size}"
        raise PairsError(reason, where=path, remedy="get the file again or correct its header")
    same = np.tile(np.repeat([True, False], size), folds)
    left, right = zip(*(_parse(line, bool(same[i])) for i, line in enumerate(lines[1:])), strict=True)
    return Pairs(left, right, same, np.repeat(np.arange(folds, dtype=np.int64), 2 * size))


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) < 10


def _parse(line: Line, same: bool) -> tuple[str, str]:
    """The two photo names of a line."""
    fields, where = line.fields, line.where
    if len(fields) != (3 if same else 4) or not all(map(_is_number, fields[1:2] + fields[-1:])):
        expected = f"a pair of one person, {_SAME}" if same else f"a pair of two people, {_DIFFERENT}"
        raise PairsError(
            f"{line.text[:80]!r} is not {expected}", where=where, remedy="see the layout in LFW's pairs.txt"
        )
    names = (fields[0], fields[0]) if same else (fields[0], fields[2])
    for name in names:
        if FORBIDDEN.search(name):
            reason = f"the name {name[:80]!r} may lie outside the folder of photos"
            raise PairsError(reason, where=where, remedy="use a plain name")
    if not same and names[0] == names[1]:
        raise PairsError(f"a pair of two people names {names[0]!r} twice", where=where, remedy="correct the line")
    return _photo(names[0], fields[1]), _photo(names[1], fields[-1])


def _photo(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _split(photo: str) -> tuple[str, int]:
    """Person and number of a photo name, the inverse of `_photo`."""
    match = _PHOTO.fullmatch(photo)
    if not match or _photo(match["name"], match["number"]) != photo:
        raise PairsError("is not called as LFW's format needs", where=photo, remedy="call it Name/Name_0001")
    return match["name"], int(match["number"])
