"""Verification protocols: what "LFW accuracy" means, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import PairsError

_Floats = NDArray[np.float64]
_Protocol = Callable[[ArrayLike, ArrayLike, ArrayLike, ArrayLike], "Result"]


@dataclass(frozen=True, eq=False)
class Result:
    """What a protocol found.

    Attributes:
        protocol: name of the protocol.
        accuracy: (F,) float64, the share of right decisions in each test fold.
        threshold: (F,) float64, chosen on the other folds.
        scores: (P,) float64, the score of each pair in the space of its own test fold.
        same: (P,) bool, whether the pair shows one person.
        fold: (P,) int64, 0-based fold of each pair.
    """

    protocol: str
    accuracy: _Floats
    threshold: _Floats
    scores: _Floats
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean of the fold accuracies."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Sample standard deviation of the fold accuracies (divisor F - 1)."""
        return float(self.accuracy.std(ddof=1))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, std / sqrt(F): the S_E of LFW's technical report."""
        return self.std / float(np.sqrt(len(self.accuracy)))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(P,) bool, whether each pair is decided rightly by the threshold of its fold (a tie never is)."""
        threshold = self.threshold[self.fold]
        return np.where(self.same, self.scores > threshold, self.scores < threshold)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, for JSON."""
        return {
            "protocol": self.protocol,
            "mean": self.mean,
            "std": self.std,
            "standard_error": self.standard_error,
            "accuracy": self.accuracy.tolist(),
            "threshold": self.threshold.tolist(),
            "scores": self.scores.tolist(),
            "same": self.same.tolist(),
            "fold": self.fold.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """The inverse of `to_dict`."""
        kinds = {"accuracy": np.float64, "threshold": np.float64, "scores": np.float64, "same": bool, "fold": np.int64}
        return cls(data["protocol"], **{key: np.array(data[key], dtype=kind) for key, kind in kinds.items()})


def sphereface(left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike) -> Result:
    """The protocol of SphereFace and SphereFace+ (`evaluation.m` in both repositories).

    For each fold: subtract the mean of the other folds' features (left and right, repeats counted), normalise to unit
    length, score a pair by the dot product; choose among the 20,001 thresholds -1, -0.9999 ... 1 the mean of those that
    decide most of the other folds' pairs rightly (same > t, different < t, both strict); decide the fold with it.

    Args:
        left: (P, d) features, for LFW of the photo and its mirror image joined (d = 1024); computed in float64.
        right: (P, d) features of the other photos.
        same: (P,) bool.
        fold: (P,) int, 0-based.

    Raises:
        PairsError: shapes or folds do not fit, or a feature is not finite or has no direction.
    """
    first, second = _features(left, "left"), _features(right, "right")
    labels, folds = np.asarray(same), np.asarray(fold)
    _check(first, second, labels, folds)
    labels, folds = labels.astype(bool), folds.astype(np.int64)
    # A pair's score depends on the mean m of its fold only through l.r - m.(l + r) + m.m, so all folds share the inner
    # products; the mean of everything goes first, so that m is small and nothing cancels.
    size = (np.einsum("ij,ij->", first, first) + np.einsum("ij,ij->", second, second)) / (2 * len(labels))
    centre = (first.mean(0) + second.mean(0)) / 2
    first, second = first - centre, second - centre
    inner = np.einsum("ij,ij->i", first, second)
    squares = np.einsum("ij,ij->i", first, first), np.einsum("ij,ij->i", second, second)
    member = np.equal.outer(np.arange(folds.max() + 1), folds).astype(np.float64)
    sums = member @ first + member @ second
    scores = np.empty(len(labels))
    accuracy, threshold = np.empty(len(member)), np.empty(len(member))
    for k in range(len(member)):
        test = folds == k
        mean = (sums.sum(0) - sums[k]) / (2 * (~test).sum())
        along, norms = (first @ mean, second @ mean), []
        for name, square, projection in zip(("left", "right"), squares, along, strict=True):
            norm = square - 2 * projection + mean @ mean
            _refuse(norm <= np.maximum(1e-24 * size, 1e-12 * square), f"{name} features equal the mean feature")
            norms.append(norm)
        now = (inner - along[0] - along[1] + mean @ mean) / np.sqrt(norms[0] * norms[1])
        threshold[k] = _best_threshold(now[~test], labels[~test])
        accuracy[k] = _accuracy(now[test], labels[test], threshold[k : k + 1])[0]
        scores[test] = now[test]
    return Result("sphereface", accuracy, threshold, scores, labels, folds)


PROTOCOLS: dict[str, _Protocol] = {"sphereface": sphereface}


def _best_threshold(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Mean of the thresholds that decide most pairs rightly."""
    thresholds = np.arange(-10000, 10001) / 10000
    accuracy = _accuracy(scores, same, thresholds)
    return float(thresholds[accuracy == accuracy.max()].mean())


def _accuracy(scores: _Floats, same: NDArray[np.bool_], thresholds: _Floats) -> _Floats:
    """Share of pairs decided rightly at each threshold: (same > t) + (different < t), both strict."""
    positive, negative = np.sort(scores[same]), np.sort(scores[~same])
    accepted = len(positive) - np.searchsorted(positive, thresholds, side="right")
    return (accepted + np.searchsorted(negative, thresholds, side="left")) / len(scores)


def _features(values: ArrayLike, name: str) -> _Floats:
    features = np.asarray(values, dtype=np.float64)
    if features.ndim != 2 or not features.size:
        raise PairsError(f"{name} features must be (P, d), not {features.shape}")
    _refuse(np.asarray(~np.isfinite(features).all(axis=1)), f"{name} features hold NaN or infinity")
    return features


def _check(left: _Floats, right: _Floats, same: NDArray[Any], fold: NDArray[Any]) -> None:
    pairs = (len(left),)
    if left.shape != right.shape or same.shape != pairs or fold.shape != pairs:
        raise PairsError(f"left {left.shape}, right {right.shape}, same {same.shape}, fold {fold.shape} do not fit")
    count = int(fold.max()) + 1
    if count < 2 or not np.array_equal(np.unique(fold), np.arange(count)):
        raise PairsError("verification needs folds numbered 0, 1, 2 ...", remedy="give at least 2 folds of pairs")
    for k in range(count):
        if len(np.unique(same[fold != k])) < 2:
            reason = f"the folds other than {k} do not hold both pairs of one person and pairs of two"
            raise PairsError(reason, remedy="spread both kinds over the folds")


def _refuse(bad: NDArray[np.bool_], what: str) -> None:
    if bad.any():
        reason = f"{int(bad.sum())} of {len(bad)} {what}, the first in pair {int(bad.argmax())} (counted from 0)"
        raise PairsError(reason, remedy="check the weights, and the crops of these photos")
