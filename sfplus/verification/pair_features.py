"""Validation of the features, labels and folds of verification pairs, and the cosine similarity of each pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import PairsError

Floats = NDArray[np.float64]
_Float = TypeVar("_Float", np.float32, np.float64)
_SIDES = "left", "right"
_BLOCK = 128  # pairs whose features are processed at a time, so that they stay in the processor's cache


class PairFeatures(NamedTuple):
    """Features of pairs with their labels and folds.

    Attributes:
        left: (P, d) float32 or float64.
        right: (P, d) float32 or float64.
        same: (P,) bool.
        fold: (P,) int64, 0-based.
        tested: (P,) bool, False for pairs that only help to choose thresholds.
    """

    left: NDArray[np.floating[Any]]
    right: NDArray[np.floating[Any]]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    tested: NDArray[np.bool_]


def check_pairs(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, with_folds: bool = True
) -> PairFeatures:
    """Validate the arguments of a `VerificationProtocol`.

    Args:
        left: (P, d) features.
        right: (P, d) features.
        same: (P,) bool.
        fold: (P,) int; -1 - k for a pair that belongs to fold k and is never tested.
        with_folds: whether the protocol needs at least two folds.

    Raises:
        PairsError: If shapes or folds do not fit.
    """
    first, second = _as_features(left, _SIDES[0]), _as_features(right, _SIDES[1])
    labels, folds = np.asarray(same), np.asarray(fold)
    pairs = (len(first),)
    if first.shape != second.shape or labels.shape != pairs or folds.shape != pairs:
        reason = f"left {first.shape}, right {second.shape}, same {labels.shape}, fold {folds.shape} do not fit"
        raise PairsError(reason)
    labels, folds = labels.astype(bool), folds.astype(np.int64)
    tested = folds >= 0
    members = PairFeatures(first, second, labels, np.where(tested, folds, -1 - folds), tested)
    if not with_folds:
        _check_kinds(labels[tested], "the pairs")
        return members
    count = int(folds.max()) + 1
    if len(np.unique(members.fold)) < 2 or not np.array_equal(np.unique(folds[tested]), np.arange(count)):
        raise PairsError("verification needs folds numbered 0, 1, 2 ...", remedy="give at least 2 folds of pairs")
    for k in range(count):
        _check_kinds(labels[members.fold != k], f"the folds other than {k}")
    return members


def check_finite(pairs: PairFeatures, sums: Floats) -> None:
    """Raise an error if features hold NaN or infinity.

    Args:
        pairs: the pairs.
        sums: sums over the features; the features themselves are only inspected if one of these is not finite.

    Raises:
        PairsError: If a feature is not finite, or too large for float64.
    """
    if not np.isfinite(sums).all():
        for side, features in zip(_SIDES, (pairs.left, pairs.right), strict=True):
            _refuse(np.asarray(~np.isfinite(features).all(axis=1)), f"{side} features hold NaN or infinity")
        raise PairsError("features are too large", remedy="divide all of them by the same number")


def check_directions(is_zero: NDArray[np.bool_], problem: str) -> None:
    """Raise an error if a feature has no direction.

    Args:
        is_zero: (2, P) bool, of the left and the right features.
        problem: what is wrong with them, for the message.

    Raises:
        PairsError: If any is True.
    """
    for side, rows in zip(_SIDES, is_zero, strict=True):
        _refuse(rows, f"{side} features {problem}")


def cosines(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, mirrored: bool, *, with_folds: bool = True
) -> tuple[Floats, PairFeatures]:
    """Validate pairs and return the cosine similarity of each.

    Args:
        left: (P, d) features.
        right: (P, d) features.
        same: (P,) bool.
        fold: (P,) int, as in `check_pairs`.
        mirrored: whether to add the two halves of each feature, those of a photo and of its mirror image, first.
        with_folds: as in `check_pairs`.

    Returns:
        Cosines (P,) float64 and the validated pairs.

    Raises:
        PairsError: If shapes or folds do not fit, or a feature is not finite or zero.
    """
    pairs = check_pairs(left, right, same, fold, with_folds=with_folds)
    half, odd = divmod(pairs.left.shape[1], 2)
    if mirrored and odd:
        width = pairs.left.shape[1]
        raise PairsError(f"features of {width} numbers cannot be split into those of a photo and its mirror image")
    inner, squares = np.empty(len(pairs.same)), np.empty((2, len(pairs.same)))
    for rows in blocks(len(pairs.same)):
        a, b = np.asarray(pairs.left[rows], np.float64), np.asarray(pairs.right[rows], np.float64)
        if mirrored:
            a, b = a.reshape(-1, 2, half).sum(1), b.reshape(-1, 2, half).sum(1)
        inner[rows], squares[0, rows], squares[1, rows] = dots(a, b), dots(a, a), dots(b, b)
    check_finite(pairs, squares)
    check_directions(squares == 0, "are zero")
    return inner / np.sqrt(squares[0] * squares[1]), pairs


def dots(a: NDArray[_Float], b: NDArray[_Float]) -> NDArray[_Float]:
    """Return the inner product of each row of `a` with the same row of `b`, by BLAS, which is faster than einsum."""
    return np.asarray(np.matmul(a[:, None], b[:, :, None])[:, 0, 0])


def blocks(count: int) -> Iterator[slice]:
    """Yield slices of at most 128 of `count` rows."""
    for start in range(0, count, _BLOCK):
        yield slice(start, start + _BLOCK)


def _as_features(values: ArrayLike, side: str) -> NDArray[np.floating[Any]]:
    features = np.asarray(values)
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float64)
    if features.ndim != 2 or not features.size:
        raise PairsError(f"{side} features must be (P, d), not {features.shape}")
    return features


def _check_kinds(same: NDArray[np.bool_], subset: str) -> None:
    if same.all() or not same.any():
        reason = f"{subset} do not hold both pairs of the same person and pairs of different people"
        raise PairsError(reason, remedy="distribute both kinds over the folds")


def _refuse(bad: NDArray[np.bool_], problem: str) -> None:
    if bad.any():
        reason = f"{int(bad.sum())} of {len(bad)} {problem}, the first in pair {int(bad.argmax())} (counted from 0)"
        raise PairsError(reason, remedy="check the weights, and the crops of these photos")
