"""Bootstrap intervals over people instead of pairs, because pairs that share a person are not independent.

Each replicate draws as many people as there are, with replacement. The weight of a pair of two people is the product of
their counts, that of a pair of the same person the count of that person. Variance that belongs to single pairs of two
people is then counted three times (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007), which makes
intervals up to 1.7 times too wide where few pairs share a person, as in LFW. A second bootstrap of those pairs alone
measures that part, and twice its variance is subtracted. The remainder is the variance over all pairs of pairs that
share a person (Aronow, Samii and Assenova, Political Analysis 2015; for face verification Fogliato, Patil and Perona,
arXiv:2306.01198).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError

_Floats = NDArray[np.float64]
_BLOCK = 1 << 20  # weights in memory at a time


class Interval(NamedTuple):
    """A confidence interval."""

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
    """Compute bootstrap percentile intervals of statistics of pairs over the people in them.

    Args:
        statistic: a function from weights (R, P) of the pairs to values (R, K), NaN where the weights
            do not determine a value.
        pairs: P pairs.
        level: nominal coverage.
        replicates: number of bootstrap replicates.
        seed: seed of the draws; the same seed gives the same intervals.

    Returns:
        An interval for each of the K values.

    Raises:
        PairsError: If there are too few people for an interval.
    """
    if not 0 < level < 1 or replicates < 2:
        raise ValueError("needs 0 < level < 1 and at least 2 replicates")
    n = len(pairs.people.names)
    if n < 2:
        raise PairsError("an interval needs at least two people", remedy="verify on more people")
    rng = np.random.default_rng(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        over_people = np.concatenate([statistic(weights) for weights in _people_weights(rng, pairs, replicates)])
        over_pairs = np.concatenate([statistic(weights) for weights in _pair_weights(rng, pairs, replicates)])
        values = statistic(np.ones((1, len(pairs))))[0]
    columns = zip(over_people.T, over_pairs.T, values.tolist(), strict=True)
    return [_interval(*column, n, level) for column in columns]


def _interval(over_people: _Floats, over_pairs: _Floats, value: float, people: int, level: float) -> Interval:
    from scipy.special import ndtri, stdtrit  # start-up time: all commands for photos import this module

    finite = np.isfinite(over_people)
    if finite.mean() < 0.9:
        raise PairsError("there are too few people for an interval", remedy="verify on more people")
    over_people, over_pairs = over_people[finite], over_pairs[np.isfinite(over_pairs)]
    variance = over_people.var()
    share = max(1 - 2 * over_pairs.var() / variance, 1 / 3) if variance else 1.0
    tail = (1 - level) / 2
    widening = np.sqrt(people / (people - 1)) * stdtrit(people - 1, tail) / ndtri(tail)  # as Student's t for few people
    low, high = value + (np.quantile(over_people, [tail, 1 - tail]) - value) * np.sqrt(share) * widening
    return Interval(float(low), float(high))


def stratified_mean(values: NDArray[np.generic], same: NDArray[np.bool_]) -> Callable[[_Floats], _Floats]:
    """Return the mean of a value per pair as a statistic, with the share of pairs of the same person held fixed.

    Args:
        values: (P,) a value for each pair.
        same: (P,) bool.

    Returns:
        A function from weights (R, P) to means (R, 1), for `people_intervals`.
    """
    strata = [(members, members.mean()) for members in (same, ~same) if members.any()]
    numbers = np.asarray(values, np.float64)

    def statistic(weights: _Floats) -> _Floats:
        parts = [share * (weights[:, k] @ numbers[k]) / weights[:, k].sum(1) for k, share in strata]
        return np.asarray(np.sum(parts, axis=0))[:, None]

    return statistic


def _people_weights(rng: np.random.Generator, pairs: Pairs, replicates: int) -> Iterator[_Floats]:
    """Yield weights (R, P) of the pairs for draws of people with replacement."""
    names, left, right = pairs.people
    n, same = len(names), left == right
    for size in _batches(replicates, max(n, len(pairs))):
        picked = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        weights = counts[:, left]
        weights[:, ~same] *= counts[:, right[~same]]
        yield weights


def _pair_weights(rng: np.random.Generator, pairs: Pairs, replicates: int) -> Iterator[_Floats]:
    """Yield weights (R, P) for independent draws of the pairs of two people."""
    _, left, right = pairs.people
    differ = left != right
    for size in _batches(replicates, len(pairs)):
        weights = np.ones((size, len(pairs)))
        weights[:, differ] = rng.poisson(1, (size, int(differ.sum())))
        yield weights


def _batches(replicates: int, width: int) -> list[int]:
    """Return batch sizes that add up to the replicates and keep (size, width) weights within the block."""
    largest = max(1, _BLOCK // width)
    return [min(largest, replicates - done) for done in range(0, replicates, largest)]
