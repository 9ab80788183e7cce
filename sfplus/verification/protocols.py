"""Verification protocols: the definitions of "LFW accuracy", by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import PairsError
from sfplus.verification.pair_features import (
    Floats,
    PairFeatures,
    blocks,
    check_directions,
    check_finite,
    check_pairs,
    cosines,
    dots,
)
from sfplus.verification.result import Result

_AnyProtocol = TypeVar("_AnyProtocol", bound=Callable[..., Result])


class VerificationProtocol(Protocol):
    """The interface of a protocol: a function from the features of pairs to a result.

    The first line of a protocol's docstring is its description in reports.

    Args:
        left: (P, d) features; the computation is in float64.
        right: (P, d) features of the second photos.
        same: (P,) bool.
        fold: (P,) int, 0-based. A pair with fold -1 - k belongs to fold k but only helps to choose thresholds and is
            never tested (LFW's view 1, its unrestricted setting); the result does not contain it.
        mirrored: whether each feature is the concatenation of the features of a photo and its mirror image, as the
            embed stage writes it. `insightface`, `opensphere` and `exact` then add the two halves; `sphereface` uses
            the concatenation.

    Raises:
        PairsError: If shapes or folds do not fit, or a feature is not finite or has no direction.
    """

    def __call__(
        self, left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
    ) -> Result:
        """Verify the pairs."""
        ...


PROTOCOLS: dict[str, VerificationProtocol] = {}


def register(protocol: _AnyProtocol) -> _AnyProtocol:
    """Add a protocol to PROTOCOLS under the name of the function; use it as a decorator."""
    PROTOCOLS[protocol.__name__] = protocol
    return protocol


@register
def sphereface(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> Result:
    """For each fold, subtract the mean feature of the others and use the mean of their best among 20,001 thresholds.

    `evaluation.m` of SphereFace and SphereFace+. For each fold: subtract the mean of the other folds' features (left
    and right, repeats counted), normalise to unit length, score a pair by the dot product; use the mean of those
    thresholds -1, -0.9999 ... 1 that decide most of the other folds' pairs correctly (same > t, different < t, both
    strict). See `VerificationProtocol`.
    """
    pairs = check_pairs(left, right, same, fold)
    first, second, labels, owner, tested = pairs
    folds = int(owner[tested].max()) + 1
    # A pair's score depends on the mean m of its fold only through l.r - m.(l + r) + m.m, so all folds share the inner
    # products. A point c near all of the means is subtracted first: m - c is then small, which avoids cancellation.
    centre = (first.mean(0, dtype=np.float64) + second.mean(0, dtype=np.float64)) / 2
    check_finite(pairs, centre)
    member = np.equal.outer(owner, np.arange(int(owner.max()) + 1)).astype(np.float64)
    inner, squares, sums = np.empty(len(labels)), np.empty((2, len(labels))), np.zeros((len(centre), member.shape[1]))
    for rows in blocks(len(labels)):
        a, b = first[rows] - centre, second[rows] - centre
        inner[rows], squares[0, rows], squares[1, rows] = dots(a, b), dots(a, a), dots(b, b)
        sums += (a + b).T @ member[rows]
    means = (sums.sum(1, keepdims=True) - sums[:, :folds]) / (2 * (len(labels) - member.sum(0)))[:folds]
    along = np.empty((2, len(labels), folds))
    for rows in blocks(len(labels)):
        for side, features in enumerate((first, second)):
            along[side, rows] = (features[rows] - centre) @ means
    size, lengths = squares.sum() / (2 * len(labels)), np.einsum("ij,ij->j", means, means)
    scores = np.empty(len(labels))
    accuracy, threshold = np.empty(folds), np.empty(folds)
    for k in range(folds):
        norms = squares - 2 * along[..., k] + lengths[k]
        check_directions(norms <= np.maximum(1e-24 * size, 1e-12 * squares), "equal the mean feature")
        fold_scores = (inner - along[0, :, k] - along[1, :, k] + lengths[k]) / np.sqrt(norms[0] * norms[1])
        test = tested & (owner == k)
        threshold[k] = _grid_threshold(fold_scores[owner != k], labels[owner != k])
        accuracy[k] = _accuracy(fold_scores[test], labels[test], threshold[k : k + 1])[0]
        scores[test] = fold_scores[test]
    kept = scores[tested], labels[tested], owner[tested]
    return Result("sphereface", accuracy, threshold, *kept, mirrored=mirrored)


@register
def insightface(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> Result:
    """For each fold, use the first best of 400 distance thresholds on the others.

    `verification.py` of insightface (and AdaFace, CVLface, face.evoLVe): normalise to unit length; of the
    squared distances 0, 0.01 ... 3.99 use the first that decides most of the other folds' pairs correctly (same < t,
    different >= t). Scores and thresholds are returned as cosines: a squared distance t is the cosine 1 - t / 2.
    See `VerificationProtocol`.
    """
    scores, pairs = cosines(left, right, same, fold, mirrored)
    thresholds = 1 - np.arange(0, 4, 0.01) / 2  # descending
    first = len(thresholds) - np.searchsorted(thresholds[::-1], scores, side="left")  # the first that accepts a pair
    folds = int(pairs.fold.max()) + 1
    counts = np.zeros((2, folds, len(thresholds) + 1), np.int64)
    np.add.at(counts, (pairs.same.astype(int), pairs.fold, first), 1)
    accepted = counts.cumsum(2)[..., :-1]
    correct = accepted[1] + counts[0].sum(1)[:, None] - accepted[0]  # (folds, thresholds)
    best = (correct.sum(0) - correct).argmax(1)
    return _result("insightface", thresholds[best], scores, pairs, "different", mirrored)


@register
def opensphere(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> Result:
    """Use the threshold that is best on all pairs at once, without folds.

    `get_results` in OpenSphere's `dataset/utils.py`: the threshold is chosen on the pairs that it decides (same >= t,
    different < t; the highest of several), so the accuracy is optimistic. The result has a single fold.
    See `VerificationProtocol`.
    """
    scores, pairs = cosines(left, right, same, fold, mirrored, with_folds=False)
    threshold = np.array([_exact_threshold(scores[pairs.tested], pairs.same[pairs.tested])])
    one_fold = pairs._replace(fold=np.zeros(len(scores), np.int64))
    return _result("opensphere", threshold, scores, one_fold, "same", mirrored)


@register
def exact(left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False) -> Result:
    """For each fold, use the exact best threshold on the others, without a grid.

    Scores are cosines. Of the points halfway between neighbouring scores of the other folds, and those beyond both
    ends, use the one that decides most of their pairs correctly (same >= t, different < t), the highest of several:
    no grid, no rounding, one answer. See `VerificationProtocol`.
    """
    scores, pairs = cosines(left, right, same, fold, mirrored)
    folds = int(pairs.fold[pairs.tested].max()) + 1
    threshold = [_exact_threshold(scores[pairs.fold != k], pairs.same[pairs.fold != k]) for k in range(folds)]
    return _result("exact", np.array(threshold), scores, pairs, "same", mirrored)


if TYPE_CHECKING:
    ProtocolName = str
else:
    ProtocolName = Literal[tuple(PROTOCOLS)]  # a type for settings: pydantic rejects any other name


def protocol_summaries(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, fold: ArrayLike, *, mirrored: bool = False
) -> dict[str, dict[str, Any]]:
    """Verify pairs by every protocol that the features and folds allow.

    Args:
        left: (P, d) features, as in `VerificationProtocol`.
        right: (P, d) features.
        same: (P,) bool.
        fold: (P,) int.
        mirrored: as in `VerificationProtocol`.

    Returns:
        `Result.to_dict()` without the scores, labels and folds of the pairs, by the name of the protocol.
    """
    summaries = {}
    for name, protocol in PROTOCOLS.items():
        with contextlib.suppress(PairsError):
            result = protocol(left, right, same, fold, mirrored=mirrored).to_dict()
            summaries[name] = {key: value for key, value in result.items() if key not in ("scores", "same", "fold")}
    return summaries


def _result(
    name: str,
    threshold: Floats,
    scores: Floats,
    pairs: PairFeatures,
    ties: Literal["different", "same"],
    mirrored: bool,
) -> Result:
    """Return the result for one score per pair and one threshold per fold."""
    tested = pairs.tested
    count = np.bincount(pairs.fold[tested])
    kept = scores[tested], pairs.same[tested], pairs.fold[tested]
    undecided = Result(name, np.empty(0), threshold[: len(count)], *kept, ties, mirrored)
    return replace(undecided, accuracy=np.bincount(undecided.fold, undecided.correct) / count)


def _grid_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Return the mean of the thresholds -1, -0.9999 ... 1 that decide most pairs correctly."""
    thresholds = np.arange(-10000, 10001) / 10000
    accuracy = _accuracy(scores, same, thresholds)
    return float(thresholds[accuracy == accuracy.max()].mean())


def _accuracy(scores: Floats, same: NDArray[np.bool_], thresholds: Floats) -> Floats:
    """Return the share of correct decisions at each ascending threshold: same > t or different < t, both strict."""
    below = np.searchsorted(thresholds, scores[same], side="left")  # thresholds below each score of the same person
    not_above = np.searchsorted(thresholds, scores[~same], side="right")  # thresholds <= each score of different people
    n = len(thresholds) + 1
    accepted = len(below) - np.bincount(below, minlength=n).cumsum()[:-1]
    return np.asarray((accepted + np.bincount(not_above, minlength=n).cumsum()[:-1]) / len(scores))


def _exact_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Return the highest threshold that decides most pairs correctly (same >= t, different < t), between two scores."""
    order = np.argsort(-scores)
    descending = scores[order]
    correct = np.concatenate([[0], np.cumsum(np.where(same[order], 1, -1))])  # if the n highest are accepted, + const
    cut = np.concatenate([[True], descending[1:] != descending[:-1], [True]])
    n = int(np.flatnonzero(cut)[correct[cut].argmax()])
    if n == 0:
        return float(np.nextafter(descending[0], np.inf))
    halfway = (descending[n - 1] + descending[min(n, len(descending) - 1)]) / 2
    return float(halfway if n == len(descending) or halfway > descending[n] else descending[n - 1])
