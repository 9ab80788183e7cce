"""Two models on the same pairs: whether their difference means anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, chi2

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.bootstrap import people_intervals, share_of
from sfplus.verification.curves import tested_pairs
from sfplus.verification.result import Result

_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """How a second model stands against a first one on the same pairs.

    Attributes:
        first: name of the first model.
        second: name of the second.
        pairs: how many pairs both decided.
        difference: share of pairs that the second decides rightly, less that of the first.
        low: lower end of the interval of the difference over people.
        high: its upper end.
        level: nominal coverage of that interval.
        won: pairs that only the second decides rightly.
        lost: pairs that only the first decides rightly.
        p: of McNemar's exact test: how often chance alone would part won and lost that far.
        mid_p: its mid-p variant, less cautious.
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
    def real(self) -> bool:
        """Whether the difference is more than chance: p is below 1 - level and the interval leaves out 0."""
        return self.p < 1 - self.level and not self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """What the comparison says, in plain words."""
        points = (
            f"{100 * self.difference:+.2f} points ({100 * self.level:g} % interval {100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f}, McNemar's p {_chance(self.p)}; one pair is {100 / self.pairs:.4f} points)"
        )
        counts = f"{self.second} is right on {_pairs(self.won)} that {self.first} gets wrong, wrong on {self.lost:,}"
        if self.won == self.lost == 0:
            return f"{self.first} and {self.second} decide all {self.pairs:,} pairs alike."
        if not self.real:
            return f"{counts}: {points}. The difference means nothing."
        better, worse = (self.second, self.first) if self.difference > 0 else (self.first, self.second)
        return f"{counts}: {points}. {better} is better than {worse} on these pairs."


def mcnemar(
    first: _Bools, second: _Bools, method: Literal["exact", "mid-p", "chi2"] = "exact"
) -> tuple[int, int, float]:
    """McNemar's test on the pairs that only one of two models decides rightly.

    Args:
        first: (P,) bool, whether the first model is right.
        second: (P,) bool, whether the second is.
        method: `exact`, the two-sided binomial test; `mid-p`, which counts the observed split half (Fagerland,
            Lydersen and Laake, BMC Medical Research Methodology 2013); `chi2`, with continuity correction.

    Returns:
        How many pairs only the second decides rightly, how many only the first, and the p-value.

    Raises:
        PairsError: the lengths differ.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise PairsError(f"decisions {first.shape} and {second.shape} are not of the same pairs")
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


def difference_interval(
    first: _Bools, second: _Bools, pairs: Pairs, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The difference of the shares of pairs decided rightly, second less first, with its interval over people.

    The bootstrap is paired: both models are judged on the same draws of people (see `people_intervals`).

    Raises:
        PairsError: the lengths differ, or there are too few people.
    """
    if not len(first) == len(second) == len(pairs):
        raise PairsError(f"{len(first)} and {len(second)} decisions are not of {len(pairs)} pairs")
    change = second.astype(np.float64) - first
    ((low, high),) = people_intervals(
        share_of(change, pairs.same), pairs, level=level, replicates=replicates, seed=seed
    )
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

    Raises:
        PairsError: the results are of other pairs or of two protocols, or there are too few people.
    """
    if first.protocol != second.protocol:
        reason = f"the results follow two protocols, {first.protocol} and {second.protocol}"
        raise PairsError(reason, remedy="verify both models by one protocol")
    tested_pairs(second, pairs)
    kept = tested_pairs(first, pairs)
    a, b = first.correct, second.correct
    won, lost, p = mcnemar(a, b)
    mid_p = mcnemar(a, b, "mid-p")[2]
    difference, low, high = difference_interval(a, b, kept, level=level, replicates=replicates, seed=seed)
    return Comparison(*names, len(a), difference, low, high, level, won, lost, p, mid_p)


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)}"
