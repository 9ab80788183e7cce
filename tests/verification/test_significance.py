from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student
from slow_cases import slow
from statsmodels.stats.contingency_tables import mcnemar as oracle
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.result import Result
from sfplus.verification.significance import (
    Comparison,
    compare,
    detectable_difference,
    difference_interval,
    holm,
    mcnemar,
)


def decisions(both: int, won: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, False, True, False], [both, won, lost, neither])
    return first, np.repeat([True, True, False, False], [both, won, lost, neither])


TABLES = [(90, 3, 7, 5), (10, 0, 6, 0), (50, 12, 12, 2), (5, 1, 0, 0), (900, 40, 61, 9), (2, 25, 11, 3)]


@pytest.mark.parametrize("table", TABLES)
def test_mcnemar_equals_statsmodels(table: tuple[int, int, int, int]) -> None:
    both, won, lost, neither = table
    square = [[both, lost], [won, neither]]
    first, second = decisions(*table)
    assert mcnemar(first, second)[:2] == (won, lost)
    assert mcnemar(first, second)[2] == pytest.approx(oracle(square, exact=True).pvalue, abs=1e-12)
    assert mcnemar(first, second)[2] == pytest.approx(binomtest(won, won + lost).pvalue, abs=1e-12)
    if won != lost:  # statsmodels does not stop the correction at 0
        expected = oracle(square, exact=False, correction=True).pvalue
        assert mcnemar(first, second, "chi2")[2] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("table", TABLES)
def test_mid_p_counts_the_observed_split_half(table: tuple[int, int, int, int]) -> None:
    _, won, lost, _ = table
    n = won + lost
    chance = [comb(n, k) / 2**n for k in range(n + 1)]
    beyond = sum(p for k, p in enumerate(chance) if abs(2 * k - n) > abs(won - lost))
    at = sum(p for k, p in enumerate(chance) if abs(2 * k - n) == abs(won - lost))
    assert mcnemar(*decisions(*table), "mid-p")[2] == pytest.approx(beyond + at / 2, abs=1e-12)


def test_mcnemar_without_a_difference() -> None:
    for method in ("exact", "mid-p", "chi2"):
        assert mcnemar(*decisions(9, 0, 0, 1), method) == (0, 0, 1.0)  # type: ignore[arg-type]
    with pytest.raises(PairsError, match="do not belong to the same pairs"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def make_pairs(count: int, seed: int = 0) -> Pairs:
    """Return pairs, half of each kind, with two pairs of a kind per person."""
    rng = np.random.default_rng(seed)
    person = np.arange(count) // 2
    same = rng.permutation(count) % 2 == 0
    left = tuple(f"{p}/{i}" for i, p in enumerate(person))
    right = tuple(
        f"{p if s else (p + 1) % (count // 2)}/x{i}" for i, (p, s) in enumerate(zip(person, same, strict=True))
    )
    return Pairs(left, right, same, np.arange(count) % 2)


def result(right: np.ndarray, pairs: Pairs, protocol: str = "exact") -> Result:
    scores = np.where(right == pairs.same, 1.0, -1.0)
    accuracy = np.array([right[pairs.fold == k].mean() for k in (0, 1)])
    return Result(protocol, accuracy, np.zeros(2), scores, pairs.same, pairs.fold)


def test_a_significant_difference() -> None:
    pairs = make_pairs(1000)
    rng = np.random.default_rng(0)
    first, second = rng.random(1000) < 0.8, rng.random(1000) < 0.95
    comparison = compare(result(first, pairs), result(second, pairs), pairs, ("A", "B"))
    assert comparison.difference == pytest.approx(second.mean() - first.mean()) and comparison.pairs == 1000
    assert comparison.low < comparison.difference < comparison.high and comparison.low > 0
    assert (comparison.won, comparison.lost, comparison.p) == mcnemar(first, second) and comparison.mid_p < comparison.p
    assert comparison.significant and comparison.verdict.endswith("B is better than A on these pairs.")
    reverse = compare(result(second, pairs), result(first, pairs), pairs, ("B", "A"))
    assert reverse.difference == -comparison.difference and reverse.verdict.endswith(
        "B is better than A on these pairs."
    )
    assert (reverse.low, reverse.high) == pytest.approx((-comparison.high, -comparison.low), abs=0.005)


def test_a_difference_that_is_not_significant() -> None:
    pairs = make_pairs(600)
    first = np.random.default_rng(1).random(600) < 0.9
    second = first.copy()
    second[np.flatnonzero(~first)[:2]] = True
    second[np.flatnonzero(first)[0]] = False
    comparison = compare(result(first, pairs), result(second, pairs), pairs, ("A", "B"))
    assert not comparison.significant and (comparison.won, comparison.lost) == (2, 1)
    counts = "B is right on 2 pairs that A gets wrong, and wrong on 1 pair that A gets right"
    assert comparison.verdict.startswith(f"{counts}: +0.17 points (95 % interval ")
    assert "McNemar's p = 1.000; one pair is 0.1667 points" in comparison.verdict
    assert comparison.verdict.endswith("The difference is not significant.")
    reverse = compare(result(second, pairs), result(first, pairs), pairs)
    assert " gets right: −0.17 points (95 % interval −" in reverse.verdict and "-" not in reverse.verdict


def test_models_with_equal_decisions() -> None:
    pairs = make_pairs(100)
    right = np.arange(100) % 10 > 0
    comparison = compare(result(right, pairs), result(right, pairs), pairs)
    assert (comparison.difference, comparison.low, comparison.high, comparison.p) == (
        0,
        0,
        0,
        1,
    ) and not comparison.significant
    assert comparison.verdict == "the first model and the second model decide all 100 pairs the same way."


def test_significance_needs_both_the_p_value_and_the_interval() -> None:
    clear = Comparison("A", "B", 6000, 0.01, 0.005, 0.015, 0.95, 90, 30, 1e-6, 1e-7)
    assert clear.significant and "p < 0.001; one pair is 0.0167 points" in clear.verdict
    assert not replace(clear, p=0.06).significant and not replace(clear, low=-0.001).significant
    assert replace(clear, level=0.9, p=0.06).significant


def test_the_interval_is_paired() -> None:
    """Errors that both models share do not widen the interval."""
    pairs = make_pairs(400)
    rng = np.random.default_rng(2)
    shared = rng.random(400) < 0.3
    first, second = ~shared, ~shared
    second = second & (rng.random(400) < 0.99)
    difference, low, high = difference_interval(first, second, pairs)
    unpaired = difference_interval(np.ones(400, bool), second, pairs)
    assert low <= difference <= high and high - low < 0.5 * (unpaired[2] - unpaired[1])


def test_different_pairs_and_protocols_are_refused() -> None:
    pairs, different = make_pairs(100), make_pairs(100, seed=1)
    right = np.arange(100) % 10 > 0
    with pytest.raises(PairsError, match="different protocols, exact and sphereface"):
        compare(result(right, pairs), result(right, pairs, "sphereface"), pairs)
    with pytest.raises(PairsError, match="different pairs"):
        compare(result(right, pairs), result(right, different), pairs)
    with pytest.raises(PairsError, match="do not belong to 100 pairs"):
        difference_interval(right[:50], right[:50], pairs)


@pytest.mark.parametrize("p", [slow([0.04]), [0.01, 0.04, 0.03, 0.005], slow([0.5, 0.9, 0.001]), slow([0.2, 0.2])])
def test_holm_equals_statsmodels(p: list[float]) -> None:
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_holm_does_not_count_tests_that_were_not_made() -> None:
    first, missing, last = holm([0.03, float("nan"), 0.01])
    assert (first, last) == pytest.approx((0.03, 0.02)) and np.isnan(missing) and holm([]) == []


@pytest.mark.parametrize("count", [2, 3, 5, 20])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_the_detectable_difference_has_the_power(count: int, power: float) -> None:
    differences = np.random.default_rng(count).normal(0, 0.3, count)
    found = detectable_difference(differences, power=power)
    if count > 2:  # statsmodels is NaN there
        effect = TTestPower().solve_power(nobs=count, alpha=0.025, power=power, alternative="larger")
        assert found == pytest.approx(effect * differences.std(ddof=1), rel=2e-3)
    rng = np.random.default_rng(0)
    runs = rng.normal(found, differences.std(ddof=1), (100_000, count))
    t = runs.mean(1) / runs.std(1, ddof=1) * np.sqrt(count)
    assert (t > student.ppf(0.975, count - 1)).mean() == pytest.approx(power, abs=0.005)


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.1], []])
def test_seeds_that_do_not_vary_say_nothing_about_detectable_differences(differences: list[float]) -> None:
    assert np.isnan(detectable_difference(differences))
