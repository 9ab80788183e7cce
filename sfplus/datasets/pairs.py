"""Pair lists in the format of LFW's view 2: read, write and draw them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import DatasetError, PairsError
from sfplus.images import write_atomically

_HEADER = "the first line must hold the number of folds and the pairs of each kind in a fold, as in '10<TAB>300'"
_SAME, _DIFFERENT = "'name n1 n2'", "'name1 n1 name2 n2'"
_FORBIDDEN = re.compile(r"[/\\\x00]|^\.{1,2}$|^[A-Za-z]:|^$")
_PHOTO = re.compile(r"(?P<name>[^/\t\r\n]+)/(?P=name)_(?P<number>\d{4,9})", re.ASCII)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of photos to verify.

    Attributes:
        left: (P,) photo names without extension, relative to the folder of photos: "Name/Name_0001".
        right: (P,) the other photo of each pair.
        same: (P,) bool, whether the pair shows one person.
        fold: (P,) int64, 0-based fold of each pair; every fold up to the largest holds pairs.

    Raises:
        PairsError: the parts do not agree, or a name may lie outside the folder of photos.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = (len(self.left),)
        if not self.left or len(self.right) != shape[0] or self.same.shape != shape or self.fold.shape != shape:
            raise PairsError(
                f"pairs need equal, non-zero lengths, not left {shape[0]}, right {len(self.right)}, "
                f"same {self.same.shape}, fold {self.fold.shape}"
            )
        if self.same.dtype != np.bool_ or self.fold.dtype != np.int64:
            raise PairsError(f"pairs need bool same and int64 fold, not {self.same.dtype} and {self.fold.dtype}")
        if not np.array_equal(np.unique(self.fold), np.arange(int(self.fold.max()) + 1)):
            raise PairsError("the folds of pairs are not numbered 0, 1, 2 ... without a gap")
        for name in {*self.left, *self.right}:
            if name.startswith("/") or any(_FORBIDDEN.search(part) for part in name.split("/")):
                raise PairsError("may lie outside the folder of photos", where=name, remedy="use a plain relative name")

    def __len__(self) -> int:
        return len(self.left)

    @property
    def folds(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    @property
    def photos(self) -> list[str]:
        """The distinct photo names, sorted."""
        return sorted({*self.left, *self.right})


def read_pairs(path: Path) -> Pairs:
    """Read a pair list in the format of LFW's view 2 (`pairs.txt`).

    The header holds the number of folds and n; then come, fold by fold, n lines `name n1 n2` (one person) and n lines
    `name1 n1 name2 n2` (two people). Photo n of a person is `name/name_%04d`. Fields are separated by tabs, or by
    spaces in lines without a tab. UTF-8, with or without a byte order mark; lines end with LF or CRLF.

    Raises:
        PairsError: the file is missing, is not UTF-8, or a line is malformed (`where` is `file:line`).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        remedy = "name a pair list in the format of LFW's pairs.txt"
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise PairsError("is not UTF-8 text", where=path, remedy="save the pair list as UTF-8") from error
    header, *lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    numbers = _fields(header)
    if len(numbers) != 2 or not all(_is_number(field) and int(field) > 0 for field in numbers):
        raise PairsError("has no header of LFW's view 2", where=f"{path}:1", remedy=_HEADER)
    folds, size = int(numbers[0]), int(numbers[1])
    if len(lines) != 2 * folds * size:
        reason = f"holds {len(lines)} pairs, but its header says {folds} folds x 2 x {size} = {2 * folds * size}"
        raise PairsError(reason, where=path, remedy="get the file again or correct its header")
    same = np.tile(np.repeat([True, False], size), folds)
    parsed = [_parse(line, bool(same[i]), f"{path}:{i + 2}") for i, line in enumerate(lines)]
    left, right = zip(*parsed, strict=True)
    return Pairs(left, right, same, np.repeat(np.arange(folds, dtype=np.int64), 2 * size))


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs in the format that `read_pairs` reads; reading them back gives the same pairs.

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


def draw_pairs(photos: Sequence[str], folds: int, per_fold: int, seed: int) -> Pairs:
    """Draw verification pairs as LFW does: nobody is in two folds, and no pair comes twice.

    People are dealt to the folds by lot, those with more photos first. Each fold's pairs are spread over its people
    (pairs of one person) and over its couples of people (pairs of two) as evenly as their photos allow.

    Args:
        photos: names "Name/Name_0001.jpg", relative to the folder of photos; the folder is the person.
        folds: number of folds.
        per_fold: pairs of one person in each fold; as many pairs of two people are drawn.
        seed: the same photos (in any order) and seed give the same pairs.

    Raises:
        DatasetError: there are too few people or photos, or a photo is in no person's folder.
    """
    if folds < 1 or per_fold < 1:
        raise DatasetError(f"cannot draw {folds} folds of {per_fold} pairs", remedy="ask for at least one of each")
    people: dict[str, list[str]] = {}
    for photo in sorted(photos):
        name = PurePosixPath(photo)
        if name.parent == PurePosixPath("."):
            raise DatasetError("is in no person's folder", where=photo, remedy="keep photos as Name/Name_0001.jpg")
        people.setdefault(name.parent.as_posix(), []).append(name.with_suffix("").as_posix())
    for names in people.values():
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DatasetError("two photos differ only in their extension", where=twice, remedy="rename one of them")
    rng = np.random.default_rng(seed)
    groups = list(people.values())
    shuffled = [groups[i] for i in rng.permutation(len(groups))]
    shuffled.sort(key=len, reverse=True)
    left: list[str] = []
    right: list[str] = []
    for fold in range(folds):
        # there and back (0 1 2 2 1 0 ...), so that no fold always gets the person with more photos
        members = [p for i, p in enumerate(shuffled) if fold in (i % (2 * folds), 2 * folds - 1 - i % (2 * folds))]
        _draw_same(rng, members, per_fold, left, right)
        _draw_different(rng, members, per_fold, left, right)
    same = np.tile(np.repeat([True, False], per_fold), folds)
    return Pairs(tuple(left), tuple(right), same, np.repeat(np.arange(folds, dtype=np.int64), 2 * per_fold))


def _draw_same(rng: np.random.Generator, people: list[list[str]], n: int, left: list[str], right: list[str]) -> None:
    counts = _spread(rng, np.array([len(p) * (len(p) - 1) // 2 for p in people], dtype=np.int64), n, "one person")
    for k in np.flatnonzero(counts):
        first, second = np.triu_indices(len(people[k]), 1)
        for c in np.sort(rng.choice(len(first), counts[k], replace=False)):
            left.append(people[k][first[c]])
            right.append(people[k][second[c]])


def _draw_different(
    rng: np.random.Generator, people: list[list[str]], n: int, left: list[str], right: list[str]
) -> None:
    some = [people[i] for i in rng.permutation(len(people))[: 2 * n]]  # 2n people give more than n couples
    first, second = np.triu_indices(len(some), 1)
    sizes = np.array([len(p) for p in some], dtype=np.int64)
    counts = _spread(rng, sizes[first] * sizes[second], n, "two people")
    for k in np.flatnonzero(counts):
        a, b = some[first[k]], some[second[k]]
        for c in rng.choice(len(a) * len(b), counts[k], replace=False):
            left.append(a[c // len(b)])
            right.append(b[c % len(b)])


def _spread(rng: np.random.Generator, capacity: NDArray[np.int64], n: int, kind: str) -> NDArray[np.int64]:
    """How many of `n` pairs each group gives: as even as the capacities allow, the remainder by lot."""
    if capacity.sum() < n:
        reason = f"a fold has photos for only {capacity.sum()} of {n} pairs of {kind}"
        raise DatasetError(reason, remedy="add people or photos, or ask for fewer folds or pairs")
    counts = np.zeros_like(capacity)
    while rest := n - int(counts.sum()):
        room = np.flatnonzero(counts < capacity)
        if rest < len(room):
            room = rng.choice(room, rest, replace=False)
        counts[room] = np.minimum(counts[room] + max(rest // len(room), 1), capacity[room])
    return counts


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) < 10


def _parse(line: str, same: bool, where: str) -> tuple[str, str]:
    """The two photo names of a line."""
    fields = _fields(line)
    if len(fields) != (3 if same else 4) or not all(map(_is_number, fields[1:2] + fields[-1:])):
        expected = f"a pair of one person, {_SAME}" if same else f"a pair of two people, {_DIFFERENT}"
        raise PairsError(f"{line[:80]!r} is not {expected}", where=where, remedy="see the layout in LFW's pairs.txt")
    names = (fields[0], fields[0]) if same else (fields[0], fields[2])
    for name in names:
        if _FORBIDDEN.search(name):
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
