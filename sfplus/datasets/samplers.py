"""Samplers that balance people; each batch is a function of the seed and the step only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import UsageError
from sfplus.io.console import quantity

Indices = NDArray[np.int64]
# The first word of the seed of each random stream; training uses 0 and 1.
_PEOPLE, _CROPS, _SLOTS = 2, 3, 4


class _CropsByPerson:
    """Crops grouped by person.

    Attributes:
        order: (N,) indices of the crops, grouped by person.
        first: (C,) position of the first crop of each person in `order`.
        count: (C,) number of crops of each person; people without crops are left out.
    """

    def __init__(self, labels: NDArray[np.integer]) -> None:
        _, self.count = np.unique(labels, return_counts=True)
        self.order: Indices = np.argsort(labels, kind="stable")
        self.first = np.cumsum(self.count) - self.count


class BalancedSampler:
    """Draws batches with the same number of crops of each of several people.

    In each epoch the people are shuffled and divided among the batches; a remainder smaller than a batch is left out,
    so that no person is in a batch twice. The crops of a person are drawn in each batch, and none is repeated before
    all have been drawn.

    Args:
        labels: (N,) the person of each crop.
        batch_size: number of crops per batch.
        per_person: number of crops per person in a batch.
        seed: seed of the random choices.

    Raises:
        UsageError: If `per_person` does not divide `batch_size`, or there are fewer people than a batch needs.
    """

    def __init__(self, labels: NDArray[np.integer], batch_size: int, per_person: int, seed: int) -> None:
        if batch_size % per_person:
            reason = f"batches of {batch_size} cannot contain {quantity(per_person, 'crop')} of each person"
            raise UsageError(reason, where="per_person", remedy="choose a divisor of batch_size")
        self._crops, self._per_person, self._seed = _CropsByPerson(labels), per_person, seed
        self._people_per_batch = batch_size // per_person
        if len(self._crops.count) < self._people_per_batch:
            needed = quantity(self._people_per_batch, "person", "people")
            reason = f"a batch needs {needed}, the data set has {len(self._crops.count)}"
            raise UsageError(reason, where="per_person", remedy="choose a larger per_person or a smaller batch_size")

    def draw(self, step: int) -> Indices:
        """Return the crops of a step, counted from 1: (B,) int64 indices, grouped by person."""
        crops = self._crops
        epoch, batch = divmod(step - 1, len(crops.count) // self._people_per_batch)
        order = _permutation(self._seed, epoch, len(crops.count))
        people = order[batch * self._people_per_batch : (batch + 1) * self._people_per_batch]
        count = crops.count[people]
        start = np.cumsum(count) - count
        owner = np.repeat(np.arange(len(people)), count)
        position = np.arange(len(owner)) - start[owner]
        keys = np.random.default_rng((_CROPS, self._seed, step)).random(len(owner))
        shuffled = position[np.lexsort((keys, owner))]
        slots = start[:, None] + np.arange(self._per_person) % count[:, None]
        drawn: Indices = crops.order[(crops.first[people][:, None] + shuffled[slots]).ravel()]
        return drawn


class WeightedSampler:
    """Draws batches of crops in which people occur in proportion to a power of the number of their crops.

    Args:
        labels: (N,) the person of each crop.
        batch_size: number of crops per batch.
        power: 1 draws all crops equally often, 0 all people, 0.5 is between the two.
        seed: seed of the random choices.
    """

    def __init__(self, labels: NDArray[np.integer], batch_size: int, power: float, seed: int) -> None:
        self._crops, self._batch_size, self._seed = _CropsByPerson(labels), batch_size, seed
        self._cumulative_weights = np.cumsum(self._crops.count.astype(np.float64) ** power)

    def draw(self, step: int) -> Indices:
        """Return the crops of a step, counted from 1: (B,) int64 indices, independent of one another."""
        crops = self._crops
        person_draw, crop_draw = np.random.default_rng((_SLOTS, self._seed, step)).random((2, self._batch_size))
        people = np.searchsorted(self._cumulative_weights, person_draw * self._cumulative_weights[-1], side="right")
        drawn: Indices = crops.order[crops.first[people] + (crop_draw * crops.count[people]).astype(np.int64)]
        return drawn


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> Indices:
    return np.random.default_rng((_PEOPLE, seed, epoch)).permutation(count)
