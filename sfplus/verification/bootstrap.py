"""Intervals by drawing people, not pairs: pairs that share a person are not independent.

A replicate draws as many people as there are, with replacement. A pair of two people counts as often as the product
of how often both were drawn, a pair of one person as often as that person. Drawn so, chance that belongs to single
pairs of two people is counted three times (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007), which
makes intervals up to 1.7 times too wide where hardly a pair shares a person, as in LFW. A second bootstrap of those
pairs alone measures that part, and twice its variance is taken off. What is left is the variance over all pairs of
pairs that share a person (Aronow, Samii and Assenova, Political Analysis 2015; for face verification Fogliato, Patil
and Perona, arXiv:2306.01198).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError

_Floats = NDArray[np.float64]
_BLOCK = 1 << 20  # weights in memory at a time


class Interval(NamedTuple):
    """An interval."""

    low: float
    high: float


def people_intervals(
    statistic: Callable[[_Floats], _Floats],
    pairs: Pairs,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Bootstrap percentile intervals of statistics of pairs, over the people in them.

    Args:
        statistic: weights (R, P) of the pairs to values (R, K), not a number where the weights do not allow one.
        pairs: P pairs.
        level: nominal coverage.
        replicates: how often people are drawn.
        seed: the same seed gives the same intervals.

    Returns:
        An interval for each of the K values.

    Raises:
        PairsError: there are too few people for an interval.
    """
    if not 0 < level < 1 or replicates < 2:
        raise ValueError("needs 0 < level < 1 and at least 2 replicates")
    n = len(pairs.people.names)
    if n < 2:
        raise PairsError("one person gives no interval", remedy="verify on more people")
    rng = np.random.default_rng(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.concatenate([statistic(weights) for weights in _people_weights(rng, pairs, replicates)])
        alone = np.concatenate([statistic(weights) for weights in _pair_weights(rng, pairs, replicates)])
        values = statistic(np.ones((1, len(pairs))))[0]
    return [_interval(*column, n, level) for column in zip(drawn.T, alone.T, values.tolist(), strict=True)]


def _interval(drawn: _Floats, alone: _Floats, value: float, people: int, level: float) -> Interval:
    fit = np.isfinite(drawn)
    if fit.mean() < 0.9:
        raise PairsError("has too few people for an interval", remedy="verify on more people")
    drawn, alone = drawn[fit], alone[np.isfinite(alone)]
    spread = drawn.var()
    share = max(1 - 2 * alone.var() / spread, 1 / 3) if spread else 1.0
    tail = (1 - level) / 2
    few = np.sqrt(people / (people - 1)) * stdtrit(people - 1, tail) / ndtri(tail)  # as Student's t is wider
    low, high = value + (np.quantile(drawn, [tail, 1 - tail]) - value) * np.sqrt(share) * few
    return Interval(float(low), float(high))


def share_of(values: NDArray[np.generic], same: NDArray[np.bool_]) -> Callable[[_Floats], _Floats]:
    """The mean of a value (P,) of each pair as a statistic; how many pairs are of one person stays as it is."""
    kinds = [(kind, kind.mean()) for kind in (same, ~same) if kind.any()]
    numbers = np.asarray(values, np.float64)

    def statistic(weights: _Floats) -> _Floats:
        parts = [share * (weights[:, k] @ numbers[k]) / weights[:, k].sum(1) for k, share in kinds]
        return np.asarray(np.sum(parts, axis=0))[:, None]

    return statistic


def _people_weights(rng: np.random.Generator, pairs: Pairs, replicates: int) -> Iterator[_Floats]:
    names, left, right = pairs.people
    n, one = len(names), left == right
    for size in _sizes(replicates, max(n, len(pairs))):
        picked = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        weights = times[:, left]
        weights[:, ~one] *= times[:, right[~one]]
        yield weights


def _pair_weights(rng: np.random.Generator, pairs: Pairs, replicates: int) -> Iterator[_Floats]:
    """Weights that draw each pair of two people by itself."""
    _, left, right = pairs.people
    two = left != right
    for size in _sizes(replicates, len(pairs)):
        weights = np.ones((size, len(pairs)))
        weights[:, two] = rng.poisson(1, (size, int(two.sum())))
        yield weights


def _sizes(replicates: int, width: int) -> list[int]:
    most = max(1, _BLOCK // width)
    return [min(most, replicates - done) for done in range(0, replicates, most)]
