"""The samples of each step, as a function of settings and step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from sfplus.datasets.samplers import BalancedSampler, WeightedSampler
from sfplus.recipes.settings.train import SolverSettings


def create_sampler(labels: np.ndarray, settings: SolverSettings) -> Callable[[int], np.ndarray]:
    """Create the function that draws the crops of a step for `settings.sampler`.

    Args:
        labels: (N,) labels of the crops.
        settings: settings of the run.

    Returns:
        A function from a step to indices (B,) int64 in [0, N).

    Raises:
        UsageError: If there are too few people for the batch.
    """
    size, seed = settings.batch_size, settings.seed
    if settings.sampler == "balanced":
        return BalancedSampler(labels, size, settings.per_person, seed).draw
    if settings.sampler == "people":
        return WeightedSampler(labels, size, settings.crop_power, seed).draw
    return lambda step: draw_indices(step, len(labels), size, seed)


def draw_flips(step: int, settings: SolverSettings) -> np.ndarray:
    """Draw the crops of a global batch that are mirrored, (B,) bool, seeded by (seed, step)."""
    flips = np.random.default_rng((1, settings.seed, step)).random(settings.batch_size) < 0.5
    return flips & settings.mirror


def draw_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Draw the samples of a step from shuffled epochs.

    Epochs are permutations seeded by (seed, epoch), joined end to end and cut into batches.

    Returns:
        (batch_size,) int64 in [0, count).
    """
    stream = np.arange((step - 1) * batch_size, step * batch_size)
    epochs, positions = np.divmod(stream, count)
    indices = np.empty_like(stream)
    for epoch in np.unique(epochs):
        mask = epochs == epoch
        indices[mask] = _permutation(seed, int(epoch), count)[positions[mask]]
    return indices


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((0, seed, epoch)).permutation(count)
