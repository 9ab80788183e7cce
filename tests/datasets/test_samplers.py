from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sfplus.datasets.samplers import BalancedSampler, WeightedSampler
from sfplus.errors import UsageError


@st.composite
def sets(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Draw labels in any order, the people per batch and the crops per person."""
    counts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    labels = np.repeat(np.arange(len(counts)) * 3, counts)  # numbers may be missing
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)
    return labels, draw(st.integers(1, len(counts))), draw(st.integers(1, 5))


@given(sets(), st.integers(0, 2**40), st.integers(1, 10**9))
@settings(max_examples=100, deadline=None)
def test_balanced_batches_have_equal_crops_per_person(case: tuple[np.ndarray, int, int], seed: int, step: int) -> None:
    labels, people, each = case
    drawn = BalancedSampler(labels, people * each, each, seed).draw(step)
    owners, counts = np.unique(labels[drawn], return_counts=True)
    assert len(owners) == people and (counts == each).all()
    for owner in owners:
        times = np.bincount(drawn[labels[drawn] == owner], minlength=len(labels))[labels == owner]
        assert times.max() - times.min() <= 1  # none twice before all were there once
    again = BalancedSampler(labels, people * each, each, seed)
    again.draw(max(1, step - 1))  # what was drawn before does not matter
    np.testing.assert_array_equal(again.draw(step), drawn)


def test_each_person_is_drawn_once_per_epoch() -> None:
    labels = np.repeat(np.arange(12), 5)
    sampler = BalancedSampler(labels, 8, 2, 0)
    for epoch in range(3):
        people = np.concatenate([labels[sampler.draw(1 + 3 * epoch + batch)] for batch in range(3)])
        assert np.bincount(people).tolist() == [2] * 12
    assert (sampler.draw(1) != sampler.draw(4)).any()


def test_balanced_crops_are_drawn_equally_often() -> None:
    labels = np.repeat(np.arange(3), [2, 5, 40])
    sampler = BalancedSampler(labels, 6, 2, 1)
    drawn = np.bincount(np.concatenate([sampler.draw(step) for step in range(1, 4001)]))
    for person in range(3):
        assert chisquare(drawn[labels == person]).pvalue > 1e-3


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_people_are_drawn_in_proportion_to_a_power_of_their_crops(power: float) -> None:
    counts = np.array([1, 4, 9, 100])
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts))
    sampler = WeightedSampler(labels, 50, power, 7)
    drawn = np.concatenate([sampler.draw(step) for step in range(1, 801)])
    expected = counts**power / (counts**power).sum() * len(drawn)
    assert chisquare(np.bincount(labels[drawn]), expected).pvalue > 1e-3
    within = np.bincount(drawn, minlength=len(labels))[labels == 3]
    assert chisquare(within).pvalue > 1e-3
    np.testing.assert_array_equal(WeightedSampler(labels, 50, power, 7).draw(800), drawn[-50:])
    assert (WeightedSampler(labels, 50, power, 8).draw(800) != drawn[-50:]).any()


@pytest.mark.parametrize(("size", "each", "reason"), [(10, 4, "cannot contain 4"), (12, 1, "needs 12 people.* has 3")])
def test_impossible_batches_are_refused(size: int, each: int, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        BalancedSampler(np.repeat(np.arange(3), 4), size, each, 0)
