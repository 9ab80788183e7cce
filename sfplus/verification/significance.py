"""Significance of differences: McNemar's test, intervals over people, Holm's correction, detectable effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, chi2, norm
from scipy.stats import t as student

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.bootstrap import people_intervals, stratified_mean
from sfplus.verification.curves import tested_pairs
from sfplus.verification.result import Result

_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """The difference between two models on the same pairs.

    Attributes:
        first: name of the first model.
        second: name of the second model.
        pairs: number of pairs.
        difference: accuracy over all pairs of the second model minus that of the first.
        low: lower end of the interval of the difference over people.
        high: upper end of that interval.
        level: nominal coverage of that interval.
        won: number of pairs that only the second model decides correctly.
        lost: number of pairs that only the first model decides correctly.
        p: p-value of McNemar's exact test: the probability that won and lost differ by chance at least this much.
        mid_p: p-value of its mid-p variant, which is less conservative.
    """

    first: str
    second: str
    pairs: int
    difference: float
    low: float
    high: float
    level: float
    won: int
    lost: int
    p: float
    mid_p: float

    @property
    def significant(self) -> bool:
        """True if p is below 1 - level and the interval excludes 0."""
        return self.p < 1 - self.level and not self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """The conclusion in words, with the figures behind it."""
        points = (
            f"{100 * self.difference:+.2f} points ({100 * self.level:g} % interval {100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f}, McNemar's p {_p_value(self.p)}; one pair is {100 / self.pairs:.4f} points)"
        ).replace("-", "−")
        counts = (
            f"{self.second} is right on {_pairs(self.won)} that {self.first} gets wrong, and wrong on "
            f"{_pairs(self.lost)} that {self.first} gets right"
        )
        if self.won == self.lost == 0:
            return f"{self.first} and {self.second} decide all {self.pairs:,} pairs the same way."
        if not self.significant:
            return f"{counts}: {points}. The difference is not significant."
        better, worse = (self.second, self.first) if self.difference > 0 else (self.first, self.second)
        return f"{counts}: {points}. {better} is better than {worse} on these pairs."


def mcnemar(
    first: _Bools, second: _Bools, method: Literal["exact", "mid-p", "chi2"] = "exact"
) -> tuple[int, int, float]:
    """Run McNemar's test on the pairs that only one of two models decides correctly.

    Args:
        first: (P,) bool, True where the first model is right.
        second: (P,) bool, True where the second model is right.
        method: `exact`, the two-sided binomial test; `mid-p`, which counts half of the probability of the observed
            split (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013); `chi2`, with continuity
            correction.

    Returns:
        The number of pairs that only the second model decides correctly, the number that only the first does, and the
        p-value.

    Raises:
        PairsError: If the lengths differ.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise PairsError(f"decisions {first.shape} and {second.shape} do not belong to the same pairs")
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    n, few = won + lost, min(won, lost)
    if n == 0:
        return won, lost, 1.0
    if method == "chi2":
        return won, lost, float(chi2.sf(max(abs(won - lost) - 1, 0) ** 2 / n, 1))
    p, point = min(1.0, 2 * float(binom.cdf(few, n, 0.5))), float(binom.pmf(few, n, 0.5))
    if method == "mid-p":
        p -= point / 2 if won == lost else point
    return won, lost, p


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method, which controls the family-wise error rate.

    Args:
        p: the p-values of one family of tests; those that are NaN stay NaN and are not counted.

    Returns:
        The adjusted p-values, in the same order; those below a level are significant at it, all taken together.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    adjusted = np.full(len(values), np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return [float(value) for value in adjusted]


def detectable_difference(differences: Sequence[float], *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest mean difference that a paired t-test of as many seeds would have found.

    The standard deviation is that of the differences. A test that found nothing says that the effect is probably
    smaller than this, and not that there is none.

    Args:
        differences: of a configuration from its control, one for each seed.
        level: 1 minus the level of the two-sided test.
        power: probability that a difference of the returned size is significant.

    Returns:
        The difference in the unit of `differences`; NaN for a single seed, and for differences that do not vary.
    """
    count = len(differences)
    deviation = float(np.std(differences, ddof=1)) if count > 1 else 0.0
    if deviation < 1e-12:
        return math.nan
    # the noncentral t distribution as a mean over that of the variance; scipy's own is NaN for few degrees of freedom
    quantiles = chi2.ppf((np.arange(4000) + 0.5) / 4000, count - 1)
    limits = student.ppf((1 + level) / 2, count - 1) * np.sqrt(quantiles / (count - 1))
    shift = brentq(lambda x: norm.cdf(x - limits).mean() - power, 0, limits.max() + 10)
    return float(shift) * deviation / math.sqrt(count)


def difference_interval(
    first: _Bools, second: _Bools, pairs: Pairs, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the difference in accuracy of two models, with its interval over people.

    The bootstrap is paired: both models are evaluated on the same draws of people (see `people_intervals`).

    Args:
        first: (P,) bool, True where the first model is right.
        second: (P,) bool, True where the second model is right.
        pairs: the P pairs.
        level: nominal coverage.
        replicates: number of bootstrap replicates.
        seed: seed of the draws.

    Returns:
        The accuracy of the second model minus that of the first, and the lower and upper end of its interval.

    Raises:
        PairsError: If the lengths differ, or there are too few people.
    """
    if not len(first) == len(second) == len(pairs):
        raise PairsError(f"{len(first)} and {len(second)} decisions do not belong to {len(pairs)} pairs")
    change = second.astype(np.float64) - first
    statistic = stratified_mean(change, pairs.same)
    ((low, high),) = people_intervals(statistic, pairs, level=level, replicates=replicates, seed=seed)
    return float(change.mean()), low, high


def compare(
    first: Result,
    second: Result,
    pairs: Pairs,
    names: tuple[str, str] = ("the first model", "the second model"),
    *,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare the results of two models on the same pairs.

    Args:
        first: result of the first model.
        second: result of the second model.
        pairs: the pairs of both.
        names: names of the models.
        level: nominal coverage of the interval.
        replicates: number of bootstrap replicates.
        seed: seed of the draws.

    Raises:
        PairsError: If the results belong to different pairs or protocols, or there are too few people.
    """
    if first.protocol != second.protocol:
        reason = f"the results use different protocols, {first.protocol} and {second.protocol}"
        raise PairsError(reason, remedy="verify both models by the same protocol")
    tested_pairs(second, pairs)
    kept = tested_pairs(first, pairs)
    a, b = first.correct, second.correct
    won, lost, p = mcnemar(a, b)
    mid_p = mcnemar(a, b, "mid-p")[2]
    difference, low, high = difference_interval(a, b, kept, level=level, replicates=replicates, seed=seed)
    return Comparison(*names, len(a), difference, low, high, level, won, lost, p, mid_p)


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)}"
