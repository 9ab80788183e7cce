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
    positions = np.arange((step - 1) * settings.batch_size, step * settings.batch_size)
    epochs, places = np.divmod(positions, count)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = _permutation(settings.seed, int(epoch), count)[places[chosen]]
    flips = np.random.default_rng((1, settings.seed, step)).random(settings.batch_size) < 0.5
    return indices, flips & settings.mirror


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((0, seed, epoch)).permutation(count)
