"""Draw pairs from a folder of photos by the rules of LFW's view 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs.table import Pairs
from sfplus.datasets.records import PeopleRule, person_from_path
from sfplus.errors import DatasetError
from sfplus.io.console import quantity


def draw_pairs(photos: Sequence[str], folds: int, per_fold: int, seed: int, rule: PeopleRule = "path") -> Pairs:
    """Draw verification pairs as LFW does: each person is in one fold only, and no pair is drawn twice.

    People are assigned to the folds at random, those with more photos first. The pairs of each fold are spread over its
    people (pairs of the same person) and over its couples of people (pairs of different people) as evenly as their
    photos allow.

    Args:
        photos: paths "Name/Name_0001.jpg" relative to the folder of photos; the folder of a photo is its person.
        folds: number of folds.
        per_fold: number of pairs of the same person, and of pairs of different people, in each fold.
        seed: seed of the random choices; the order of `photos` does not matter.
        rule: which of nested folders is the person.

    Raises:
        DatasetError: If there are too few people or photos, or a photo is not in a person's folder.
    """
    if folds < 1 or per_fold < 1:
        raise DatasetError(
            f"cannot draw {quantity(folds, 'fold')} of {quantity(per_fold, 'pair')}",
            remedy="ask for at least one of each",
        )
    people: dict[str, list[str]] = {}
    for photo in sorted(photos):
        name = PurePosixPath(photo).with_suffix("").as_posix()
        people.setdefault(person_from_path(photo, DatasetError, rule), []).append(name)
    for names in people.values():
        if len(set(names)) < len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            raise DatasetError(
                "two photos differ only in their extension", where=duplicate, remedy="rename one of them"
            )
    rng = np.random.default_rng(seed)
    photos_of_people = list(people.values())
    shuffled = [photos_of_people[i] for i in rng.permutation(len(photos_of_people))]
    shuffled.sort(key=len, reverse=True)
    groups = [
        # in the order 0 1 2 2 1 0 ..., so that no fold always gets the person with more photos
        [p for i, p in enumerate(shuffled) if fold in (i % (2 * folds), 2 * folds - 1 - i % (2 * folds))]
        for fold in range(folds)
    ]
    return draw_within_folds(rng, groups, per_fold)


def draw_within_folds(rng: np.random.Generator, folds: list[list[list[str]]], per_fold: int) -> Pairs:
    """Draw pairs within each fold.

    Args:
        rng: the random generator.
        folds: for each fold and each of its people, the names of the photos.
        per_fold: number of pairs of the same person, and of pairs of different people, in each fold.

    Raises:
        DatasetError: If a fold has too few photos.
    """
    left: list[str] = []
    right: list[str] = []
    for people in folds:
        _draw_same(rng, people, per_fold, left, right)
        _draw_different(rng, people, per_fold, left, right)
    same = np.tile(np.repeat([True, False], per_fold), len(folds))
    return Pairs(tuple(left), tuple(right), same, np.repeat(np.arange(len(folds), dtype=np.int64), 2 * per_fold))


def _draw_same(rng: np.random.Generator, people: list[list[str]], n: int, left: list[str], right: list[str]) -> None:
    capacities = np.array([len(p) * (len(p) - 1) // 2 for p in people], dtype=np.int64)
    counts = _distribute(rng, capacities, n, "the same person")
    for k in np.flatnonzero(counts):
        first, second = np.triu_indices(len(people[k]), 1)
        for c in np.sort(rng.choice(len(first), counts[k], replace=False)):
            left.append(people[k][first[c]])
            right.append(people[k][second[c]])


def _draw_different(
    rng: np.random.Generator, people: list[list[str]], n: int, left: list[str], right: list[str]
) -> None:
    sample = [people[i] for i in rng.permutation(len(people))[: 2 * n]]  # 2n people form more than n couples
    first, second = np.triu_indices(len(sample), 1)
    sizes = np.array([len(p) for p in sample], dtype=np.int64)
    counts = _distribute(rng, sizes[first] * sizes[second], n, "different people")
    for k in np.flatnonzero(counts):
        a, b = sample[first[k]], sample[second[k]]
        for c in rng.choice(len(a) * len(b), counts[k], replace=False):
            left.append(a[c // len(b)])
            right.append(b[c % len(b)])


def _distribute(rng: np.random.Generator, capacities: NDArray[np.int64], n: int, kind: str) -> NDArray[np.int64]:
    """Distribute `n` pairs over groups as evenly as their capacities allow, the remainder at random.

    Args:
        rng: the random generator.
        capacities: (G,) number of pairs that each group can give.
        n: number of pairs.
        kind: whom the pairs show, for the message.

    Returns:
        (G,) int64, the number of pairs of each group.
    """
    if capacities.sum() < n:
        reason = f"a fold has photos for only {capacities.sum()} of {quantity(n, 'pair')} of {kind}"
        raise DatasetError(reason, remedy="add people or photos, or ask for fewer folds or pairs")
    counts = np.zeros_like(capacities)
    while remaining := n - int(counts.sum()):
        groups = np.flatnonzero(counts < capacities)
        if remaining < len(groups):
            groups = rng.choice(groups, remaining, replace=False)
        counts[groups] = np.minimum(counts[groups] + max(remaining // len(groups), 1), capacities[groups])
    return counts
