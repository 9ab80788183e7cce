"""Verification protocols: what "LFW accuracy" means, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import PairsError
from sfplus.verification.result import Result

__all__ = ["PROTOCOLS", "Result", "VerificationProtocol", "exact", "insightface", "opensphere", "sphereface"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_SIDES = "left", "right"
_BLOCK = 512  # pairs whose features are worked on at a time: they stay in the processor's cache


class VerificationProtocol(Protocol):
    """A protocol: features of pairs to a result.

    Args:
        left: (P, d) features, computed in float64.
        right: (P, d) features of the other photos.
        same: (P,) bool.
        fold: (P,) int, 0-based. A pair of fold -1 - k belongs to fold k, but only helps to choose thresholds and is
            never tested (LFW's view 1, its unrestricted setting); the result leaves it out.
        mirrored: whether a feature is that of the photo and that of its mirror image joined, as the embed stage makes
            it. `insightface`, `opensphere` and `exact` then add the two halves; `sphereface` takes it as it is.

    Raises:
        PairsError: shapes or folds do not fit, or a feature is not finite or has no direction.
    """

    def __call__(
        self, left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
    ) -> Result:
        """Verify the pairs."""
        ...


def sphereface(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> Result:
    """SphereFace's: mean of the training folds subtracted, mean of the best of 20,001 thresholds, folds.

    `evaluation.m` of SphereFace and SphereFace+. For each fold: subtract the mean of the other folds' features (left
    and right, repeats counted), normalise to unit length, score a pair by the dot product; choose among the thresholds
    -1, -0.9999 ... 1 the mean of those that decide most of the other folds' pairs rightly (same > t, different < t,
    both strict); decide the fold with it. See `VerificationProtocol`.
    """
    first, second, labels, owner, tested = _checked(left, right, same, fold)
    folds = int(owner[tested].max()) + 1
    # A pair's score depends on the mean m of its fold only through l.r - m.(l + r) + m.m, so all folds share the inner
    # products; a point c near all of the means goes first, so that m - c is small and nothing cancels.
    centre = (first.mean(0, dtype=np.float64) + second.mean(0, dtype=np.float64)) / 2
    _finite(first, second, centre)
    member = np.equal.outer(owner, np.arange(int(owner.max()) + 1)).astype(np.float64)
    inner, squares, sums = np.empty(len(labels)), np.empty((2, len(labels))), np.zeros((len(centre), member.shape[1]))
    for rows in _blocks(len(labels)):
        a, b = first[rows] - centre, second[rows] - centre
        inner[rows] = np.einsum("ij,ij->i", a, b)
        squares[0, rows], squares[1, rows] = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
        sums += (a + b).T @ member[rows]
    means = (sums.sum(1, keepdims=True) - sums[:, :folds]) / (2 * (len(labels) - member.sum(0)))[:folds]
    along = np.empty((2, len(labels), folds))
    for rows in _blocks(len(labels)):
        for side, features in enumerate((first, second)):
            along[side, rows] = (features[rows] - centre) @ means
    size, lengths = squares.sum() / (2 * len(labels)), np.einsum("ij,ij->j", means, means)
    scores = np.empty(len(labels))
    accuracy, threshold = np.empty(folds), np.empty(folds)
    for k in range(folds):
        norms = squares - 2 * along[..., k] + lengths[k]
        least = np.maximum(1e-24 * size, 1e-12 * squares)
        for name, bad in zip(_SIDES, norms <= least, strict=True):
            _refuse(bad, f"{name} features equal the mean feature")
        now = (inner - along[0, :, k] - along[1, :, k] + lengths[k]) / np.sqrt(norms[0] * norms[1])
        test = tested & (owner == k)
        threshold[k] = _best_threshold(now[owner != k], labels[owner != k])
        accuracy[k] = _accuracy(now[test], labels[test], threshold[k : k + 1])[0]
        scores[test] = now[test]
    return Result("sphereface", accuracy, threshold, scores[tested], labels[tested], owner[tested])


def insightface(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> Result:
    """insightface's: features of photo and mirror image added, first best of 400 thresholds on the distance, folds.

    `verification.py` of insightface (and AdaFace, CVLface, face.evoLVe): normalise the sum to unit length; of the
    squared distances 0, 0.01 ... 3.99 take the first that decides most of the other folds' pairs rightly (same < t,
    different >= t). Scores and thresholds are given as cosines: a squared distance t is the cosine 1 - t / 2.
    See `VerificationProtocol`.
    """
    cosines, labels, owner, tested = _cosines(left, right, same, fold, mirrored)
    thresholds = 1 - np.arange(0, 4, 0.01) / 2  # falling
    first = len(thresholds) - np.searchsorted(thresholds[::-1], cosines, side="left")  # threshold that accepts a pair
    folds = int(owner.max()) + 1
    counts = np.zeros((2, folds, len(thresholds) + 1), np.int64)
    np.add.at(counts, (labels.astype(int), owner, first), 1)
    accepted = counts.cumsum(2)[..., :-1]
    right_ones = accepted[1] + counts[0].sum(1)[:, None] - accepted[0]  # (folds, thresholds)
    best = (right_ones.sum(0) - right_ones).argmax(1)
    return _decided("insightface", thresholds[best], cosines, labels, owner, tested, "different")


def opensphere(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> Result:
    """OpenSphere's: features of photo and mirror image added, one best threshold over all pairs, no folds.

    `get_results` in OpenSphere's `dataset/utils.py`: the threshold is chosen on the pairs that it decides (same >= t,
    different < t; the highest of several), so the accuracy flatters the model. The result has a single fold.
    See `VerificationProtocol`.
    """
    cosines, labels, _, tested = _cosines(left, right, same, fold, mirrored, folded=False)
    cosines, labels = cosines[tested], labels[tested]
    none = np.zeros(len(labels), np.int64)
    threshold = np.array([_exact_threshold(cosines, labels)])
    return _decided("opensphere", threshold, cosines, labels, none, none == 0, "same")


def exact(left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False) -> Result:
    """The best threshold of all, found by sorting and not on a grid; features of photo and mirror image added, folds.

    Scores are cosines. Of the points halfway between neighbouring scores of the other folds, and those beyond both
    ends, take the one that decides most of them rightly (same >= t, different < t), the highest of several: no grid,
    no rounding, one answer. See `VerificationProtocol`.
    """
    cosines, labels, owner, tested = _cosines(left, right, same, fold, mirrored)
    threshold = [_exact_threshold(cosines[owner != k], labels[owner != k]) for k in range(int(owner[tested].max()) + 1)]
    return _decided("exact", np.array(threshold), cosines, labels, owner, tested, "same")


PROTOCOLS: dict[str, VerificationProtocol] = {
    "sphereface": sphereface,
    "insightface": insightface,
    "opensphere": opensphere,
    "exact": exact,
}


def _decided(
    name: str,
    threshold: _Floats,
    scores: _Floats,
    same: NDArray[np.bool_],
    owner: _Ints,
    tested: NDArray[np.bool_],
    ties: Literal["different", "same"],
) -> Result:
    """The result of one score for each pair and a threshold for each fold."""
    scores, same, fold = scores[tested], same[tested], owner[tested]
    count = np.bincount(fold)
    draft = Result(name, np.empty(0), threshold[: len(count)], scores, same, fold, ties)
    return replace(draft, accuracy=np.bincount(fold, draft.correct) / count)


def _best_threshold(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """Mean of the thresholds -1, -0.9999 ... 1 that decide most pairs rightly."""
    thresholds = np.arange(-10000, 10001) / 10000
    accuracy = _accuracy(scores, same, thresholds)
    return float(thresholds[accuracy == accuracy.max()].mean())


def _accuracy(scores: _Floats, same: NDArray[np.bool_], thresholds: _Floats) -> _Floats:
    """Share of pairs decided rightly at each rising threshold: (same > t) + (different < t), both strict."""
    below = np.searchsorted(thresholds, scores[same], side="left")  # how many a pair of one person beats
    above = np.searchsorted(thresholds, scores[~same], side="right")  # how many are not above a pair of two people
    n = len(thresholds) + 1
    accepted = len(below) - np.bincount(below, minlength=n).cumsum()[:-1]
    return np.asarray((accepted + np.bincount(above, minlength=n).cumsum()[:-1]) / len(scores))


def _exact_threshold(scores: _Floats, same: NDArray[np.bool_]) -> float:
    """The highest threshold that decides most pairs rightly (same >= t, different < t), halfway between two scores."""
    order = np.argsort(-scores)
    falling = scores[order]
    right = np.concatenate([[0], np.cumsum(np.where(same[order], 1, -1))])  # when the n highest are accepted
    cut = np.concatenate([[True], falling[1:] != falling[:-1], [True]])
    n = int(np.flatnonzero(cut)[right[cut].argmax()])
    if n == 0:
        return float(np.nextafter(falling[0], np.inf))
    halfway = (falling[n - 1] + falling[min(n, len(falling) - 1)]) / 2
    return float(halfway if n == len(falling) or halfway > falling[n] else falling[n - 1])


def _cosines(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, mirrored: bool, folded: bool = True
) -> tuple[_Floats, NDArray[np.bool_], _Ints, NDArray[np.bool_]]:
    """Cosine of each pair (with `mirrored`: of the sums of photo and mirror image), and what `_checked` gives."""
    first, second, labels, owner, tested = _checked(left, right, same, fold, folded)
    half, odd = divmod(first.shape[1], 2)
    if mirrored and odd:
        raise PairsError(f"features of {first.shape[1]} numbers are not those of a photo and its mirror image joined")
    inner, squares = np.empty(len(labels)), np.empty((2, len(labels)))
    for rows in _blocks(len(labels)):
        a, b = np.asarray(first[rows], np.float64), np.asarray(second[rows], np.float64)
        if mirrored:
            a, b = a[:, :half] + a[:, half:], b[:, :half] + b[:, half:]
        inner[rows] = np.einsum("ij,ij->i", a, b)
        squares[0, rows], squares[1, rows] = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    _finite(first, second, squares)
    for name, square in zip(_SIDES, squares, strict=True):
        _refuse(square == 0, f"{name} features are zero")
    return inner / np.sqrt(squares[0] * squares[1]), labels, owner, tested


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]


def _features(values: ArrayLike, name: str) -> NDArray[np.floating[Any]]:
    features = np.asarray(values)
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float64)
    if features.ndim != 2 or not features.size:
        raise PairsError(f"{name} features must be (P, d), not {features.shape}")
    return features


def _finite(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], sums: _Floats) -> None:
    """Refuse features that are not finite; `sums` over them tell whether there are any, so that few are looked at."""
    if not np.isfinite(sums).all():
        for name, features in zip(_SIDES, (first, second), strict=True):
            _refuse(np.asarray(~np.isfinite(features).all(axis=1)), f"{name} features hold NaN or infinity")
        raise PairsError("features are too large", remedy="divide all of them by one number")


def _checked(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, folded: bool = True
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], NDArray[np.bool_], _Ints, NDArray[np.bool_]]:
    """Features, labels, the fold to which each pair belongs, and whether it is tested."""
    first, second = _features(left, _SIDES[0]), _features(right, _SIDES[1])
    labels, folds = np.asarray(same), np.asarray(fold)
    pairs = (len(first),)
    if first.shape != second.shape or labels.shape != pairs or folds.shape != pairs:
        raise PairsError(
            f"left {first.shape}, right {second.shape}, same {labels.shape}, fold {folds.shape} do not fit"
        )
    labels, folds = labels.astype(bool), folds.astype(np.int64)
    tested = folds >= 0
    owner = np.where(tested, folds, -1 - folds)
    if not folded:
        _both_kinds(labels[tested], "the pairs")
        return first, second, labels, owner, tested
    count = int(folds.max()) + 1
    if len(np.unique(owner)) < 2 or not np.array_equal(np.unique(folds[tested]), np.arange(count)):
        raise PairsError("verification needs folds numbered 0, 1, 2 ...", remedy="give at least 2 folds of pairs")
    for k in range(count):
        _both_kinds(labels[owner != k], f"the folds other than {k}")
    return first, second, labels, owner, tested


def _both_kinds(same: NDArray[np.bool_], which: str) -> None:
    if len(np.unique(same)) < 2:
        reason = f"{which} do not hold both pairs of one person and pairs of two"
        raise PairsError(reason, remedy="spread both kinds over the folds")


def _refuse(bad: NDArray[np.bool_], what: str) -> None:
    if bad.any():
        reason = f"{int(bad.sum())} of {len(bad)} {what}, the first in pair {int(bad.argmax())} (counted from 0)"
        raise PairsError(reason, remedy="check the weights, and the crops of these photos")
