"""Pairs drawn from a folder of photos by the rules of LFW's view 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.table import Pairs
from sfplus.errors import DatasetError


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
    known = list(people.values())
    shuffled = [known[i] for i in rng.permutation(len(known))]
    shuffled.sort(key=len, reverse=True)
    groups = [
        # there and back (0 1 2 2 1 0 ...), so that no fold always gets the person with more photos
        [p for i, p in enumerate(shuffled) if fold in (i % (2 * folds), 2 * folds - 1 - i % (2 * folds))]
        for fold in range(folds)
    ]
    return draw_among(rng, groups, per_fold)


def draw_among(rng: np.random.Generator, folds: list[list[list[str]]], per_fold: int) -> Pairs:
    """Draw pairs within each fold, given as the photos of each of its people: `per_fold` of either kind.

    Raises:
        DatasetError: a fold has too few photos.
    """
    left: list[str] = []
    right: list[str] = []
    for people in folds:
        _draw_same(rng, people, per_fold, left, right)
        _draw_different(rng, people, per_fold, left, right)
    same = np.tile(np.repeat([True, False], per_fold), len(folds))
    return Pairs(tuple(left), tuple(right), same, np.repeat(np.arange(len(folds), dtype=np.int64), 2 * per_fold))


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
