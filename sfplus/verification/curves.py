"""Error rates over all thresholds: ROC, DET, area, equal error rate, TAR at a FAR; and their intervals.

A pair is accepted when its score reaches the threshold. FAR is the share of different pairs that are accepted, TAR the
share of same pairs that are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.bootstrap import Interval, people_intervals, share_of
from sfplus.verification.result import Result

_Floats = NDArray[np.float64]
FARS = (0.1, 0.01, 0.001, 0.0001)


def roc(scores: _Floats, same: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Receiver operating characteristic, one point for each distinct score and (0, 0) first.

    Args:
        scores: (P,) the higher, the more alike.
        same: (P,) bool, with pairs of both kinds.

    Returns:
        FAR and TAR, both rising from 0 to 1, and the thresholds, falling from infinity.

    Raises:
        PairsError: one kind of pair is missing, or a score is not a finite number.
    """
    _check(scores, same)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    return far, tar, thresholds


def det(scores: _Floats, same: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Detection error trade-off: FAR, 1 - TAR (same pairs rejected) and the thresholds, as `roc`."""
    far, tar, thresholds = roc(scores, same)
    return far, 1 - tar, thresholds


def auc(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Area under the ROC: the chance that a same pair scores above a different pair (a tie counts half)."""
    _check(scores, same)
    return float(roc_auc_score(same, scores))


def eer(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Equal error rate: where FAR = 1 - TAR on the ROC, its points joined by straight lines."""
    far, tar, _ = roc(scores, same)
    return float(_crossing(far[None], tar[None])[0])


def smallest_far(same: NDArray[np.bool_]) -> float:
    """The smallest FAR that can be told from zero, 1 / n with n different pairs: 1 / 3,000 on LFW."""
    return 1 / max(int((~same).sum()), 1)


def tar_at_far(scores: _Floats, same: NDArray[np.bool_], far: float) -> float | None:
    """Largest TAR at which the FAR is at most `far`; None when that FAR is below `smallest_far`.

    Nothing is extrapolated: LFW's 3,000 different pairs support 1e-3, not 1e-4.
    """
    rates, tar, _ = roc(scores, same)
    different = int((~same).sum())
    allowed = int(np.floor(far * different + 1e-9))
    return float(tar[np.rint(rates * different) <= allowed].max()) if allowed else None


def accuracy_interval(
    result: Result, pairs: Pairs, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Interval:
    """Interval of a result's accuracy over the people in its pairs, its thresholds taken as they are.

    Where all pairs are decided alike a bootstrap sees no error; the interval is then the exact binomial one
    (Clopper-Pearson) with as many trials as there are people.

    Args:
        result: of `pairs`.
        pairs: the pairs, those that are never tested included or not.
        level: nominal coverage.
        replicates: how often people are drawn (see `people_intervals`).
        seed: the same seed gives the same interval.

    Raises:
        PairsError: the result is of other pairs, or there are too few people.
    """
    pairs = tested_pairs(result, pairs)
    right = result.correct
    if right.all() or not right.any():
        bound = ((1 - level) / 2) ** (1 / min(len(pairs.people.names), len(pairs)))
        return Interval(bound, 1.0) if right.all() else Interval(0.0, 1 - bound)
    ((low, high),) = people_intervals(
        share_of(right, result.same), pairs, level=level, replicates=replicates, seed=seed
    )
    shift = result.mean - float(right.mean())  # folds of unequal size
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
    """Intervals over people of `auc`, `eer` and, under `f"{far:g}"`, of the TAR at each FAR that the pairs support.

    A FAR below `smallest_far` has None. Arguments and errors as `accuracy_interval`.
    """
    pairs = tested_pairs(result, pairs)
    least = smallest_far(result.same) * (1 - 1e-9)
    kinds = {"auc": _area, "eer": _crossing} | {f"{far:g}": _tar_below(far) for far in fars if far >= least}
    statistic = _of_curve(result.scores, result.same, list(kinds.values()))
    intervals = people_intervals(statistic, pairs, level=level, replicates=replicates, seed=seed)
    clipped = [Interval(max(low, 0.0), min(high, 1.0)) for low, high in intervals]
    return {f"{far:g}": None for far in fars} | dict(zip(kinds, clipped, strict=True))


def tested_pairs(result: Result, pairs: Pairs) -> Pairs:
    """The pairs that a result is of.

    Raises:
        PairsError: it is of other pairs.
    """
    kept = pairs.tested
    if not np.array_equal(kept.same, result.same):
        raise PairsError("the result is of other pairs", remedy="verify these pairs again")
    return kept


def _check(scores: _Floats, same: NDArray[np.bool_]) -> None:
    if same.all() or not same.any():
        raise PairsError("a ROC needs pairs of one person and pairs of two")
    if not np.isfinite(scores).all():
        raise PairsError(f"{int((~np.isfinite(scores)).sum())} scores are NaN or infinity")


def _of_curve(
    scores: _Floats, same: NDArray[np.bool_], kinds: Sequence[Callable[[_Floats, _Floats], _Floats]]
) -> Callable[[_Floats], _Floats]:
    """A statistic of weights (R, P): values of the weighted ROC, its points at distinct scores."""
    _check(scores, same)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores

    def statistic(weights: _Floats) -> _Floats:
        curves = []
        for member in (~same, same):
            mass = (weights * member)[:, order].cumsum(1)[:, last]
            curves.append(np.pad(mass / mass[:, -1:], ((0, 0), (1, 0))))
        return np.stack([kind(*curves) for kind in kinds], axis=1)

    return statistic


def _area(far: _Floats, tar: _Floats) -> _Floats:
    return np.asarray((np.diff(far) * (tar[:, 1:] + tar[:, :-1])).sum(1) / 2)


def _crossing(far: _Floats, tar: _Floats) -> _Floats:
    """Where FAR = 1 - TAR on ROC curves (R, N) that start at (0, 0), their points joined by straight lines."""
    gap = far + tar - 1  # rises from -1 to 1
    rows, after = np.arange(len(gap)), np.argmax(gap >= 0, axis=1)
    after = np.maximum(after, 1)  # curves that are not numbers
    share = gap[rows, after] / (gap[rows, after] - gap[rows, after - 1])
    return np.asarray(far[rows, after] - share * (far[rows, after] - far[rows, after - 1]))


def _tar_below(most: float) -> Callable[[_Floats, _Floats], _Floats]:
    def value(far: _Floats, tar: _Floats) -> _Floats:
        return np.where(np.isnan(tar[:, -1]) | np.isnan(far[:, -1]), np.nan, (tar * (far <= most + 1e-12)).max(1))

    return value
