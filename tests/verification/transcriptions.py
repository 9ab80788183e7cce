"""What the protocols' own code does, written out with loops, and features to try it on."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sfplus.verification.protocols import Result

Floats = NDArray[np.float64]


def counted(scores: Floats, same: NDArray[np.bool_], threshold: float) -> int:
    """Right decisions, pair by pair."""
    right = 0
    for score, is_same in zip(scores.tolist(), same.tolist(), strict=True):
        if is_same and score > threshold:
            right += 1
        if not is_same and score < threshold:
            right += 1
    return right


def searched(scores: Floats, same: NDArray[np.bool_]) -> float:
    """The threshold search of evaluation.m, with its loops."""
    best, found = -1, []
    for i in range(-10000, 10001):
        right = counted(scores, same, i / 10000)
        if right > best:
            best, found = right, []
        if right == best:
            found.append(i / 10000)
    return math.fsum(found) / len(found)


def evaluated(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> Result:
    """The whole of evaluation.m, with its loops."""
    accuracy, threshold, own = [], [], np.zeros(len(same))
    for k in range(fold.max() + 1):
        others, tests = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        mean = sum(left[i] + right[i] for i in others) / (2 * len(others))
        scores = np.zeros(len(same))
        for i in range(len(same)):
            a, b = left[i] - mean, right[i] - mean
            scores[i] = np.dot(a / np.linalg.norm(a), b / np.linalg.norm(b))
        t = searched(scores[others], same[others])
        threshold.append(t)
        accuracy.append(counted(scores[tests], same[tests], t) / len(tests))
        own[tests] = scores[tests]
    return Result("sphereface", np.array(accuracy), np.array(threshold), own, same, fold)


def drawn(seed: int, pairs: int = 36, width: int = 6, folds: int = 3, offset: float = 0.0) -> tuple[Floats, ...]:
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(pairs) % 2 == 0)
    left, right = rng.normal(size=(2, pairs, width))
    right[same] = 0.6 * right[same] + left[same]
    return left + offset, right + offset, same, rng.permutation(np.arange(pairs) % folds)  # type: ignore[return-value]


def unit_sums(features: Floats) -> Floats:
    half = features.shape[1] // 2
    sums = features[:, :half] + features[:, half:]
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def evaluated_insightface(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats:
    """Fold accuracies of calculate_roc in insightface's verification.py, written out with its loops."""
    distance = ((left - right) ** 2).sum(1)
    thresholds = np.arange(0, 4, 0.01)

    def accuracy(t: float, rows: NDArray[np.int64]) -> float:
        right_ones = sum((distance[i] < t) == same[i] for i in rows)
        return float(right_ones) / len(rows)

    found = []
    for k in range(fold.max() + 1):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        best = int(np.argmax([accuracy(t, train) for t in thresholds]))
        found.append(accuracy(thresholds[best], test))
    return np.array(found)


def best_by_trying(scores: Floats, same: NDArray[np.bool_]) -> tuple[float, int]:
    """The highest of the best thresholds, from the highest score down, and how many pairs it decides rightly."""
    values = sorted(set(scores.tolist()), reverse=True)
    candidates = [np.nextafter(values[0], 2)] + [(a + b) / 2 for a, b in pairwise(values)] + [values[-1]]
    counts = [sum((s >= t) == y for s, y in zip(scores.tolist(), same.tolist(), strict=True)) for t in candidates]
    return candidates[counts.index(max(counts))], max(counts)


def evaluated_exact(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats:
    scores, found = (left * right).sum(1), []
    for k in range(fold.max() + 1):
        t, _ = best_by_trying(scores[fold != k], same[fold != k])
        found.append(np.mean((scores[fold == k] >= t) == same[fold == k]))
    return np.array(found)
