from __future__ import annotations

import numpy as np
import pytest

from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.sampling import create_sampler, draw_flips, draw_indices


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (10, 10), (7, 3), (3, 8)])
def test_epochs_are_permutations(count: int, batch: int) -> None:
    stream = np.concatenate([draw_indices(step, count, batch, 0) for step in range(1, 41)])
    epochs = stream[: len(stream) // count * count].reshape(-1, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1, "each epoch has another order"


def test_draws_depend_on_seed_and_step() -> None:
    settings, reseeded = SolverSettings(batch_size=16), SolverSettings(batch_size=16, seed=1)
    draw, draw_reseeded = (create_sampler(np.zeros(50, np.int64), each) for each in (settings, reseeded))
    np.testing.assert_array_equal(draw(9), draw(9))
    np.testing.assert_array_equal(draw_flips(9, settings), draw_flips(9, settings))
    assert (draw_reseeded(9) != draw(9)).any() and (draw(10) != draw(9)).any()
    assert (draw_flips(10, settings) != draw_flips(9, settings)).any()


@pytest.mark.parametrize(("sampler", "people"), [("shuffle", None), ("balanced", 4), ("people", None)])
def test_samplers_by_name(sampler: str, people: int | None) -> None:
    labels = np.repeat(np.arange(8), [40, 3, 5, 7, 9, 2, 4, 1])
    settings = SolverSettings(batch_size=16, sampler=sampler, per_person=4, crop_power=0)
    counts = [np.bincount(labels[create_sampler(labels, settings)(step)], minlength=8) for step in range(1, 200)]
    drawn = np.sum(counts, axis=0) / np.sum(counts)
    if sampler == "shuffle":
        np.testing.assert_allclose(drawn, np.bincount(labels) / len(labels), atol=0.01)
    else:
        np.testing.assert_allclose(drawn, 1 / 8, atol=0.02)
    assert people is None or all(sorted(count) == [0] * 4 + [4] * 4 for count in counts)


def test_half_of_the_crops_are_mirrored() -> None:
    settings = SolverSettings(batch_size=500)
    flips = np.concatenate([draw_flips(step, settings) for step in range(1, 21)])
    assert 0.47 < flips.mean() < 0.53
    assert not draw_flips(1, SolverSettings(batch_size=500, mirror=False)).any()


def test_order_is_the_same_in_all_versions() -> None:
    """Fail if NumPy or this project changes the stream: runs of earlier versions could not be resumed exactly."""
    assert draw_indices(3, 10, 4, 5).tolist() == [9, 2, 9, 0]
    assert draw_flips(3, SolverSettings(batch_size=4, seed=5)).tolist() == [False, False, True, True]
