"""Error rates over all thresholds: ROC, area under it, equal error rate, TAR at a FAR.

A pair is accepted when its score reaches the threshold. FAR is the share of different pairs that are accepted, TAR the
share of same pairs that are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from sfplus.errors import PairsError

_Floats = NDArray[np.float64]


def roc(scores: _Floats, same: NDArray[np.bool_]) -> tuple[_Floats, _Floats, _Floats]:
    """Receiver operating characteristic, one point for each distinct score and (0, 0) first.

    Args:
        scores: (P,) the higher, the more alike.
        same: (P,) bool, with pairs of both kinds.

    Returns:
        FAR and TAR, both rising from 0 to 1, and the thresholds, falling from infinity.

    Raises:
        PairsError: one kind of pair is missing.
    """
    if same.all() or not same.any():
        raise PairsError("a ROC needs pairs of one person and pairs of two")
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    return far, tar, thresholds


def auc(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Area under the ROC: the chance that a same pair scores above a different pair (a tie counts half)."""
    return float(roc_auc_score(same, scores))


def eer(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Equal error rate: where FAR = 1 - TAR on the ROC, its points joined by straight lines."""
    far, tar, _ = roc(scores, same)
    gap = far + tar - 1  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after] / (gap[after] - gap[after - 1])
    return float(far[after] - share * (far[after] - far[after - 1]))


def tar_at_far(scores: _Floats, same: NDArray[np.bool_], far: float) -> float | None:
    """Largest TAR at which the FAR is at most `far`; None when that FAR is not measurable.

    With n different pairs the smallest FAR that can be told from zero is 1 / n: LFW's 3,000 support 1e-3, not 1e-4.
    """
    rates, tar, _ = roc(scores, same)
    different = int((~same).sum())
    allowed = int(np.floor(far * different + 1e-9))
    return float(tar[np.rint(rates * different) <= allowed].max()) if allowed else None
