"""Which crops a step learns from, as a function of settings and step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from sfplus.datasets.samplers import BalancedSampler, WeightedSampler
from sfplus.recipes.settings.train import SolverSettings


def create_sampler(labels: np.ndarray, settings: SolverSettings) -> Callable[[int], np.ndarray]:
    """What draws the crops of a step, (B,) int64 in [0, N), for the crops' labels (N,) and `settings.sampler`.

    Raises:
        UsageError: there are too few people for the batch.
    """
    size, seed = settings.batch_size, settings.seed
    if settings.sampler == "balanced":
        return BalancedSampler(labels, size, settings.per_person, seed).draw
    if settings.sampler == "people":
        return WeightedSampler(labels, size, settings.crop_power, seed).draw
    return lambda step: draw_indices(step, len(labels), size, seed)


def draw_flips(step: int, settings: SolverSettings) -> np.ndarray:
    """Which crops of the global batch of a step are mirrored, (B,) bool; seeded by (seed, step)."""
    flips = np.random.default_rng((1, settings.seed, step)).random(settings.batch_size) < 0.5
    return flips & settings.mirror


def draw_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """The samples of a step, (batch_size,) int64 in [0, count).

    Epochs are permutations seeded by (seed, epoch), laid end to end and cut into batches.
    """
    positions = np.arange((step - 1) * batch_size, step * batch_size)
    epochs, places = np.divmod(positions, count)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = _permutation(seed, int(epoch), count)[places[chosen]]
    return indices


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((0, seed, epoch)).permutation(count)
