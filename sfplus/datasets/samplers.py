"""Which crops a step learns from when people count, not only crops; each batch is a function of seed and step alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import UsageError

Indices = NDArray[np.int64]
# The first word of each stream's seed; 0 and 1 are those of training.batches.
_PEOPLE, _CROPS, _SLOTS = 2, 3, 4


class _Groups:
    """Crops by person.

    Attributes:
        order: (N,) the crops, those of one person together.
        first: (C,) where each person begins in it.
        count: (C,) how many crops of each there are; people without any are left out.
    """

    def __init__(self, labels: NDArray[np.integer]) -> None:
        _, self.count = np.unique(labels, return_counts=True)
        self.order: Indices = np.argsort(labels, kind="stable")
        self.first = np.cumsum(self.count) - self.count


class BalancedSampler:
    """Batches of as many crops of each of several people.

    People come in permutations, one an epoch, of which each batch takes the next ones; what is less than a batch at
    the end is left out, so that no person is twice in a batch. A person's crops are drawn anew in each batch, none
    twice before all were there once.

    Args:
        labels: (N,) the person of each crop.
        batch_size: crops of a batch.
        per_person: crops of a person in it.
        seed: another one draws others.

    Raises:
        UsageError: `per_person` does not divide `batch_size`, or there are fewer people than a batch takes.
    """

    def __init__(self, labels: NDArray[np.integer], batch_size: int, per_person: int, seed: int) -> None:
        if batch_size % per_person:
            reason = f"batches of {batch_size} cannot hold {per_person} crops of each person"
            raise UsageError(reason, where="per_person", remedy="choose a divisor of batch_size")
        self._groups, self._each, self._seed = _Groups(labels), per_person, seed
        self._people = batch_size // per_person
        if len(self._groups.count) < self._people:
            reason = f"a batch takes {self._people} people, and there are {len(self._groups.count)}"
            raise UsageError(reason, where="per_person", remedy="choose a larger per_person or a smaller batch_size")

    def draw(self, step: int) -> Indices:
        """The crops of a step (from 1 on): (B,) indices, those of a person together."""
        groups = self._groups
        epoch, place = divmod(step - 1, len(groups.count) // self._people)
        order = _permutation(self._seed, epoch, len(groups.count))
        people = order[place * self._people : (place + 1) * self._people]
        count = groups.count[people]
        start = np.cumsum(count) - count
        owner = np.repeat(np.arange(len(people)), count)
        inside = np.arange(len(owner)) - start[owner]
        keys = np.random.default_rng((_CROPS, self._seed, step)).random(len(owner))
        shuffled = inside[np.lexsort((keys, owner))]
        slots = start[:, None] + np.arange(self._each) % count[:, None]
        drawn: Indices = groups.order[(groups.first[people][:, None] + shuffled[slots]).ravel()]
        return drawn


class WeightedSampler:
    """Batches of crops whose people come in proportion to a power of the number of their crops.

    Args:
        labels: (N,) the person of each crop.
        batch_size: crops of a batch.
        power: 1 draws every crop equally often, 0 every person, 0.5 lies between.
        seed: another one draws others.
    """

    def __init__(self, labels: NDArray[np.integer], batch_size: int, power: float, seed: int) -> None:
        self._groups, self._size, self._seed = _Groups(labels), batch_size, seed
        self._share = np.cumsum(self._groups.count.astype(np.float64) ** power)

    def draw(self, step: int) -> Indices:
        """The crops of a step (from 1 on): (B,) indices, independent of one another."""
        groups = self._groups
        which, where = np.random.default_rng((_SLOTS, self._seed, step)).random((2, self._size))
        people = np.searchsorted(self._share, which * self._share[-1], side="right")
        drawn: Indices = groups.order[groups.first[people] + (where * groups.count[people]).astype(np.int64)]
        return drawn


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> Indices:
    return np.random.default_rng((_PEOPLE, seed, epoch)).permutation(count)
