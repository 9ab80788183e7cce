"""Which crops a step learns from, as a function of settings and step."""

from __future__ import annotations

import functools

import numpy as np

from sfplus.training.settings import SolverSettings


def draw_batch(step: int, count: int, settings: SolverSettings) -> tuple[np.ndarray, np.ndarray]:
    """Which crops make the global batch of a step, and which of them are mirrored.

    Epochs are permutations seeded by (seed, epoch), laid end to end and cut into batches; flips are seeded by (seed,
    step).

    Returns:
        Indices (B,) int64 in [0, count) and flips (B,) bool.
    """
    indices = draw_indices(step, count, settings.batch_size, settings.seed)
    flips = np.random.default_rng((1, settings.seed, step)).random(settings.batch_size) < 0.5
    return indices, flips & settings.mirror


def draw_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """The samples of a step, (batch_size,) int64 in [0, count), by the rule of `draw_batch`."""
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
