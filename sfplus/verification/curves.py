"""Error rates over all thresholds: ROC, DET, area under the curve, equal error rate, TAR at a FAR; and their intervals.

A pair is accepted if its score is at least the threshold. The false accept rate (FAR) is the share of pairs of
different people that are accepted, the true accept rate (TAR) the share of pairs of the same person that are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.io.console import quantity
from sfplus.verification.bootstrap import Interval, people_intervals, stratified_mean
from sfplus.verification.result import Result

_Floats = NDArray[np.float64]
FARS = (0.1, 0.01, 0.001, 0.0001)


def roc(scores: _Floats, same: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Compute the receiver operating characteristic, with one point for each distinct score after (0, 0).

    Args:
        scores: (P,) similarities, higher for more similar faces.
        same: (P,) bool, with pairs of both kinds.

    Returns:
        FAR and TAR, both ascending from 0 to 1, and the thresholds, descending from infinity.

    Raises:
        PairsError: If one kind of pair is missing, or a score is not finite.
    """
    _check_scores(scores, same)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    return far, tar, thresholds


def det(scores: _Floats, same: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Compute the detection error trade-off: FAR, false reject rate 1 - TAR, and the thresholds, as `roc`."""
    far, tar, thresholds = roc(scores, same)
    return far, 1 - tar, thresholds


def auc(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Compute the area under the ROC: the probability that a same pair outscores a different one (ties count half)."""
    _check_scores(scores, same)
    return float(roc_auc_score(same, scores))


def eer(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Compute the equal error rate, where FAR = 1 - TAR on the linearly interpolated ROC."""
    far, tar, _ = roc(scores, same)
    return float(_equal_error(far[None], tar[None])[0])


def smallest_far(same: NDArray[np.bool_]) -> float:
    """Return the smallest FAR that the pairs can resolve, 1 / n for n pairs of different people: 1 / 3,000 on LFW."""
    return 1 / max(int((~same).sum()), 1)


def tar_at_far(scores: _Floats, same: NDArray[np.bool_], far: float) -> float | None:
    """Return the largest TAR at which the FAR is at most `far`, or None if that FAR is below `smallest_far`.

    Nothing is extrapolated: LFW's 3,000 pairs of different people can resolve a FAR of 1e-3, but not of 1e-4.
    """
    rates, tar, _ = roc(scores, same)
    different = int((~same).sum())
    allowed = int(np.floor(far * different + 1e-9))
    return float(tar[np.rint(rates * different) <= allowed].max()) if allowed else None


def accuracy_interval(
    result: Result, pairs: Pairs, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Interval:
    """Compute the interval of an accuracy over the people in the pairs, with the thresholds held fixed.

    A bootstrap has no variance where all decisions are correct, or all are wrong; the interval is then the exact
    binomial one (Clopper-Pearson) with as many trials as there are people.

    Args:
        result: the result of the pairs.
        pairs: the pairs, with or without those that are never tested.
        level: nominal coverage.
        replicates: number of bootstrap replicates (see `people_intervals`).
        seed: seed of the draws.

    Raises:
        PairsError: If the result belongs to different pairs, or there are too few people.
    """
    pairs = tested_pairs(result, pairs)
    correct = result.correct
    if correct.all() or not correct.any():
        bound = ((1 - level) / 2) ** (1 / min(len(pairs.people.names), len(pairs)))
        return Interval(bound, 1.0) if correct.all() else Interval(0.0, 1 - bound)
    statistic = stratified_mean(correct, result.same)
    ((low, high),) = people_intervals(statistic, pairs, level=level, replicates=replicates, seed=seed)
    shift = result.mean - float(correct.mean())  # the mean over folds differs where folds have unequal sizes
    return Interval(max(low + shift, 0.0), min(high + shift, 1.0))


def rate_intervals(
    result: Result,
    pairs: Pairs,
    fars: Sequence[float] = FARS,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Compute intervals over people of the error rates.

    Args:
        result: the result of the pairs.
        pairs: the pairs, as in `accuracy_interval`.
        fars: the FARs at which to measure the TAR.
        level: nominal coverage.
        replicates: number of bootstrap replicates.
        seed: seed of the draws.

    Returns:
        Intervals of `auc`, `eer` and, under `f"{far:g}"`, of the TAR at each FAR; None for a FAR below `smallest_far`.

    Raises:
        PairsError: As in `accuracy_interval`.
    """
    pairs = tested_pairs(result, pairs)
    smallest = smallest_far(result.same) * (1 - 1e-9)
    rates = {"auc": _area, "eer": _equal_error} | {f"{far:g}": _tar_at(far) for far in fars if far >= smallest}
    statistic = _curve_statistic(result.scores, result.same, list(rates.values()))
    intervals = people_intervals(statistic, pairs, level=level, replicates=replicates, seed=seed)
    clipped = [Interval(max(low, 0.0), min(high, 1.0)) for low, high in intervals]
    return {f"{far:g}": None for far in fars} | dict(zip(rates, clipped, strict=True))


def tested_pairs(result: Result, pairs: Pairs) -> Pairs:
    """Return those pairs that were tested, after checking that the result belongs to them.

    Raises:
        PairsError: If the result belongs to different pairs.
    """
    tested = pairs.tested
    if not np.array_equal(tested.same, result.same):
        raise PairsError("the result belongs to different pairs", remedy="verify these pairs again")
    return tested


def _check_scores(scores: _Floats, same: NDArray[np.bool_]) -> None:
    if same.all() or not same.any():
        raise PairsError("a ROC needs pairs of the same person and pairs of different people")
    if not np.isfinite(scores).all():
        raise PairsError(f"{quantity(int((~np.isfinite(scores)).sum()), 'score is', 'scores are')} NaN or infinity")


def _curve_statistic(
    scores: _Floats, same: NDArray[np.bool_], rates: Sequence[Callable[[_Floats, _Floats], _Floats]]
) -> Callable[[_Floats], _Floats]:
    """Return a function from weights (R, P) of the pairs to rates (R, K) of the weighted ROC curves.

    Each rate is a function of FAR and TAR (R, N) at the N distinct scores.
    """
    _check_scores(scores, same)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each run of equal scores

    def statistic(weights: _Floats) -> _Floats:
        curves = []
        for member in (~same, same):
            mass = (weights * member)[:, order].cumsum(1)[:, last]
            curves.append(np.pad(mass / mass[:, -1:], ((0, 0), (1, 0))))
        return np.stack([rate(*curves) for rate in rates], axis=1)

    return statistic


def _area(far: _Floats, tar: _Floats) -> _Floats:
    return np.asarray((np.diff(far) * (tar[:, 1:] + tar[:, :-1])).sum(1) / 2)


def _equal_error(far: _Floats, tar: _Floats) -> _Floats:
    """Return the FAR where FAR = 1 - TAR on linearly interpolated ROC curves (R, N) that start at (0, 0)."""
    gap = far + tar - 1  # rises from -1 to 1
    rows, after = np.arange(len(gap)), np.argmax(gap >= 0, axis=1)
    after = np.maximum(after, 1)  # a valid index for curves of NaN
    share = gap[rows, after] / (gap[rows, after] - gap[rows, after - 1])
    return np.asarray(far[rows, after] - share * (far[rows, after] - far[rows, after - 1]))


def _tar_at(limit: float) -> Callable[[_Floats, _Floats], _Floats]:
    def rate(far: _Floats, tar: _Floats) -> _Floats:
        return np.where(np.isnan(tar[:, -1]) | np.isnan(far[:, -1]), np.nan, (tar * (far <= limit + 1e-12)).max(1))

    return rate
