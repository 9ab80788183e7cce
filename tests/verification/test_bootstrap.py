"""Intervals over people against the closed-form variance, scikit-learn's weighted curves and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.bootstrap import _people_weights, people_intervals, stratified_mean
from sfplus.verification.curves import (
    _area,
    _curve_statistic,
    _equal_error,
    _tar_at,
    accuracy_interval,
    eer,
    rate_intervals,
    tar_at_far,
)
from sfplus.verification.result import Result

Ints = NDArray[np.int64]


def pairs_of(left: Ints, right: Ints) -> Pairs:
    """Return pairs of people given by number, each with photos of its own."""
    sides = (tuple(f"{person}/{side}{i}" for i, person in enumerate(who)) for side, who in (("l", left), ("r", right)))
    return Pairs(*sides, left == right, np.arange(len(left)) % 2)


def sparse(people: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draw pairs that rarely share a person, as in LFW."""
    left = np.concatenate([rng.integers(people, size=people), np.arange(people)])
    return left, np.concatenate([left[:people], np.roll(left[people:], 1)])


def dense(people: int, _: np.random.Generator) -> tuple[Ints, Ints]:
    """Pair every person with every other, and add four pairs of each person."""
    first, second = np.triu_indices(people, 1)
    same = np.repeat(np.arange(people), 4)
    return np.concatenate([same, first]), np.concatenate([same, second])


def scores_of(left: Ints, right: Ints, people: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw scores with an effect of each person, to be decided at 0."""
    effect = 0.5 * rng.normal(size=people)
    same = left == right
    return np.where(same, 1.3 + effect[left], 0.6 * (effect[left] + effect[right]) - 0.8) + rng.normal(size=len(left))


SAME_SPREAD, DIFFERENT_SPREAD = (1 + 0.5**2) ** 0.5, (1 + 2 * (0.6 * 0.5) ** 2) ** 0.5


def result_of(scores: NDArray[np.float64], pairs: Pairs) -> Result:
    correct = (scores > 0) == pairs.same
    accuracy = np.array([correct[pairs.fold == k].mean() for k in (0, 1)])
    return Result("sphereface", accuracy, np.zeros(2), scores, pairs.same, pairs.fold)


@pytest.mark.slow
@pytest.mark.parametrize("design", [sparse, dense])
def test_width_follows_the_variance_over_pairs_that_share_a_person(design) -> None:
    """The variance of Aronow, Samii and Assenova (2015), with loops."""
    rng = np.random.default_rng(0)
    left, right = design(60, rng)
    pairs = pairs_of(left, right)
    values = (scores_of(left, right, 60, rng) > 0) == pairs.same
    share = np.where(pairs.same, pairs.same.mean() / pairs.same.sum(), (~pairs.same).mean() / (~pairs.same).sum())
    centred = share * np.where(pairs.same, values - values[pairs.same].mean(), values - values[~pairs.same].mean())
    variance = 0.0
    for i in range(len(left)):
        shared = (left == left[i]) | (left == right[i]) | (right == left[i]) | (right == right[i])
        variance += centred[i] * centred[shared].sum()
    interval = people_intervals(stratified_mean(values, pairs.same), pairs, replicates=8000)[0]
    students = 2 * (60 / 59) ** 0.5 * 2.001 * variance**0.5  # two-sided 95 % of Student's t with 59 degrees
    assert interval.high - interval.low == pytest.approx(students, rel=0.07)


@pytest.mark.slow
@pytest.mark.parametrize(("design", "people"), [(sparse, 300), (dense, 60)])
def test_coverage(design, people: int) -> None:
    rng = np.random.default_rng(1)
    left, right = design(people, rng)
    pairs = pairs_of(left, right)
    accuracy = pairs.same.mean() * norm.cdf(1.3 / SAME_SPREAD) + (~pairs.same).mean() * norm.cdf(0.8 / DIFFERENT_SPREAD)
    area = norm.cdf(2.1 / np.hypot(SAME_SPREAD, DIFFERENT_SPREAD))
    covered, runs = np.zeros(3), 300
    for run in range(runs):
        scores = scores_of(left, right, people, rng)
        result = result_of(scores, pairs)
        low, high = accuracy_interval(result, pairs, replicates=400, seed=run)
        covered[0] += low <= accuracy <= high
        low, high = rate_intervals(result, pairs, (), replicates=400, seed=run)["auc"]  # type: ignore[misc]
        covered[1] += low <= area <= high
        p = result.correct.mean()
        covered[2] += abs(p - accuracy) <= 1.96 * (p * (1 - p) / len(left)) ** 0.5
    assert (0.89 * runs <= covered[:2]).all() and (covered[:2] <= 0.985 * runs).all()
    if design is dense:
        assert covered[2] / runs < 0.8, "intervals for independent pairs are too narrow, so this test can fail"


def test_the_weight_of_a_pair_is_the_product_of_the_counts_of_its_people() -> None:
    left, right = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 2])
    weights = np.concatenate(list(_people_weights(np.random.default_rng(0), pairs_of(left, right), 20000)))
    assert np.array_equal(weights[:, 1], weights[:, 0] * (3 - weights[:, 0] - weights[:, 3]))
    assert np.array_equal(weights[:, 2], weights[:, 3] * (3 - weights[:, 0] - weights[:, 3]))
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.02)


def test_weighted_curves_equal_the_curves_of_repeated_pairs() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        scores, same = rng.integers(0, 12, 40) / 4, rng.random(40) < 0.5
        weights = rng.integers(0, 4, (1, 40)).astype(float)
        many, kind = np.repeat(scores, weights[0].astype(int)), np.repeat(same, weights[0].astype(int))
        rates = _curve_statistic(scores, same, [_area, _equal_error, _tar_at(0.25)])(weights)[0]
        assert rates[0] == pytest.approx(roc_auc_score(same, scores, sample_weight=weights[0]), abs=1e-12)
        assert rates[1] == pytest.approx(eer(many, kind), abs=1e-12)
        assert rates[2] == pytest.approx(tar_at_far(many, kind, 0.25), abs=1e-12)
        far, tar, _ = roc_curve(same, scores, sample_weight=weights[0], drop_intermediate=False)
        assert rates[2] == pytest.approx(tar[far <= 0.25].max(), abs=1e-12)


def test_intervals_contain_their_estimates_and_are_none_below_the_smallest_far() -> None:
    rng = np.random.default_rng(3)
    left, right = sparse(200, rng)
    pairs = pairs_of(left, right)
    result = result_of(scores_of(left, right, 200, rng), pairs)
    low, high = accuracy_interval(result, pairs)
    assert low < result.mean < high and (low, high) == accuracy_interval(result, pairs)
    assert (low, high) != accuracy_interval(result, pairs, seed=1)
    wide, narrow = (accuracy_interval(result, pairs, level=level) for level in (0.99, 0.5))
    assert wide.low < low < narrow.low < narrow.high < high < wide.high
    rates = rate_intervals(result, pairs, (0.1, 0.005, 0.004))
    assert rates["0.004"] is None, "200 pairs of different people resolve a FAR of 1 / 200"
    for name in ("0.1", "0.005"):
        interval = rates[name]
        tar = tar_at_far(result.scores, result.same, float(name))
        assert interval and interval.low <= tar <= interval.high  # type: ignore[operator]
    assert rates["eer"].low < eer(result.scores, result.same) < rates["eer"].high  # type: ignore[union-attr]


def test_the_interval_without_errors_is_the_exact_binomial_one() -> None:
    left, right = sparse(30, np.random.default_rng(4))
    pairs = pairs_of(left, right)
    all_right, all_wrong = (result_of(np.where(pairs.same, sign, -sign), pairs) for sign in (1.0, -1.0))
    exact = binomtest(30, 30).proportion_ci(0.95, "exact")
    assert accuracy_interval(all_right, pairs) == pytest.approx((exact.low, 1))
    assert accuracy_interval(all_wrong, pairs) == pytest.approx((0, 1 - exact.low))


def test_too_few_people_and_different_pairs_are_refused() -> None:
    pairs = pairs_of(np.array([0, 0, 1, 2]), np.array([0, 0, 2, 1]))
    result = Result("exact", np.array([0.5, 0.5]), np.zeros(2), np.array([1.0, -1, 1, -1]), pairs.same, pairs.fold)
    with pytest.raises(PairsError, match="too few people"):
        accuracy_interval(result, pairs)
    with pytest.raises(PairsError, match="an interval needs at least two people"):
        people_intervals(stratified_mean(np.ones(2), np.ones(2, bool)), pairs_of(np.zeros(2, int), np.zeros(2, int)))
    with pytest.raises(PairsError, match="the result belongs to different pairs"):
        accuracy_interval(result, pairs_of(np.array([0, 1]), np.array([0, 2])))
    with pytest.raises(ValueError, match="0 < level < 1"):
        accuracy_interval(result, pairs, level=95)


def test_pairs_that_are_never_tested_do_not_affect_the_interval() -> None:
    rng = np.random.default_rng(5)
    left, right = sparse(100, rng)
    pairs = pairs_of(left, right)
    result = result_of(scores_of(left, right, 100, rng), pairs)
    more = Pairs(pairs.left * 2, pairs.right * 2, np.tile(pairs.same, 2), np.concatenate([pairs.fold, -1 - pairs.fold]))
    assert accuracy_interval(result, more) == accuracy_interval(result, pairs)
