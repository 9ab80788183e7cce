from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as oracle

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.protocols import Result
from sfplus.verification.significance import Comparison, compare, difference_interval, mcnemar


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
    with pytest.raises(PairsError, match="not of the same pairs"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def lists(count: int, seed: int = 0) -> Pairs:
    """Half same, half different, two pairs of a kind to a person."""
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


def test_a_difference_that_is_real() -> None:
    pairs = lists(1000)
    rng = np.random.default_rng(0)
    first, second = rng.random(1000) < 0.8, rng.random(1000) < 0.95
    found = compare(result(first, pairs), result(second, pairs), pairs, ("A", "B"))
    assert found.difference == pytest.approx(second.mean() - first.mean()) and found.pairs == 1000
    assert found.low < found.difference < found.high and found.low > 0
    assert (found.won, found.lost, found.p) == mcnemar(first, second) and found.mid_p < found.p
    assert found.real and found.verdict.endswith("B is better than A on these pairs.")
    back = compare(result(second, pairs), result(first, pairs), pairs, ("B", "A"))
    assert back.difference == -found.difference and back.verdict.endswith("B is better than A on these pairs.")
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=0.005)


def test_a_difference_that_means_nothing() -> None:
    pairs = lists(600)
    first = np.random.default_rng(1).random(600) < 0.9
    second = first.copy()
    second[np.flatnonzero(~first)[:2]] = True
    second[np.flatnonzero(first)[0]] = False
    found = compare(result(first, pairs), result(second, pairs), pairs, ("A", "B"))
    assert not found.real and (found.won, found.lost) == (2, 1)
    assert found.verdict.startswith("B is right on 2 pairs that A gets wrong, wrong on 1: +0.17 points (95 % interval ")
    assert "McNemar's p = 1.000; one pair is 0.1667 points" in found.verdict
    assert found.verdict.endswith("The difference means nothing.")


def test_models_that_decide_alike() -> None:
    pairs = lists(100)
    right = np.arange(100) % 10 > 0
    found = compare(result(right, pairs), result(right, pairs), pairs)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1) and not found.real
    assert found.verdict == "the first model and the second model decide all 100 pairs alike."


def test_a_difference_needs_both_signs_of_it() -> None:
    sure = Comparison("A", "B", 6000, 0.01, 0.005, 0.015, 0.95, 90, 30, 1e-6, 1e-7)
    assert sure.real and "p < 0.001; one pair is 0.0167 points" in sure.verdict
    assert not replace(sure, p=0.06).real and not replace(sure, low=-0.001).real
    assert replace(sure, level=0.9, p=0.06).real


def test_the_interval_is_paired() -> None:
    """Errors that both models share do not widen it."""
    pairs = lists(400)
    rng = np.random.default_rng(2)
    shared = rng.random(400) < 0.3
    first, second = ~shared, ~shared
    second = second & (rng.random(400) < 0.99)
    difference, low, high = difference_interval(first, second, pairs)
    alone = difference_interval(np.ones(400, bool), second, pairs)
    assert low <= difference <= high and high - low < 0.5 * (alone[2] - alone[1])


def test_other_pairs_and_protocols_are_refused() -> None:
    pairs, other = lists(100), lists(100, seed=1)
    right = np.arange(100) % 10 > 0
    with pytest.raises(PairsError, match="two protocols, exact and sphereface"):
        compare(result(right, pairs), result(right, pairs, "sphereface"), pairs)
    with pytest.raises(PairsError, match="other pairs"):
        compare(result(right, pairs), result(right, other), pairs)
    with pytest.raises(PairsError, match="are not of 100 pairs"):
        difference_interval(right[:50], right[:50], pairs)
