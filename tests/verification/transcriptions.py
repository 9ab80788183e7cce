"""Reference implementations: the original code of the protocols with its loops, and features to compare them on."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sfplus.verification.result import Result

Floats = NDArray[np.float64]


def count_correct(scores: Floats, same: NDArray[np.bool_], threshold: float) -> int:
    """Count the correct decisions pair by pair."""
    correct = 0
    for score, is_same in zip(scores.tolist(), same.tolist(), strict=True):
        if is_same and score > threshold:
            correct += 1
        if not is_same and score < threshold:
            correct += 1
    return correct


def search_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Run the threshold search of evaluation.m with its loops."""
    most, best = -1, []
    for i in range(-10000, 10001):
        correct = count_correct(scores, same, i / 10000)
        if correct > most:
            most, best = correct, []
        if correct == most:
            best.append(i / 10000)
    return math.fsum(best) / len(best)


def evaluate_sphereface(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> Result:
    """Run evaluation.m with its loops."""
    accuracy, threshold, test_scores = [], [], np.zeros(len(same))
    for k in range(fold.max() + 1):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        mean = sum(left[i] + right[i] for i in train) / (2 * len(train))
        scores = np.zeros(len(same))
        for i in range(len(same)):
            a, b = left[i] - mean, right[i] - mean
            scores[i] = np.dot(a / np.linalg.norm(a), b / np.linalg.norm(b))
        t = search_threshold(scores[train], same[train])
        threshold.append(t)
        accuracy.append(count_correct(scores[test], same[test], t) / len(test))
        test_scores[test] = scores[test]
    return Result("sphereface", np.array(accuracy), np.array(threshold), test_scores, same, fold)


def random_pairs(seed: int, pairs: int = 36, width: int = 6, folds: int = 3, offset: float = 0.0) -> tuple[Floats, ...]:
    """Return left and right features, labels and folds of random pairs, half of them of the same person."""
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(pairs) % 2 == 0)
    left, right = rng.normal(size=(2, pairs, width))
    right[same] = 0.6 * right[same] + left[same]
    return left + offset, right + offset, same, rng.permutation(np.arange(pairs) % folds)  # type: ignore[return-value]


def unit_sums(features: Floats) -> Floats:
    """Add the two halves of each feature and normalise the sums."""
    half = features.shape[1] // 2
    sums = features[:, :half] + features[:, half:]
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def evaluate_insightface(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats:
    """Return the fold accuracies of calculate_roc in insightface's verification.py, with its loops."""
    distance = ((left - right) ** 2).sum(1)
    thresholds = np.arange(0, 4, 0.01)

    def accuracy(t: float, rows: NDArray[np.int64]) -> float:
        correct = sum((distance[i] < t) == same[i] for i in rows)
        return float(correct) / len(rows)

    accuracies = []
    for k in range(fold.max() + 1):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        best = int(np.argmax([accuracy(t, train) for t in thresholds]))
        accuracies.append(accuracy(thresholds[best], test))
    return np.array(accuracies)


def try_thresholds(scores: Floats, same: NDArray[np.bool_]) -> tuple[float, int]:
    """Return the highest of the best thresholds, and the number of pairs that it decides correctly, by trying all."""
    values = sorted(set(scores.tolist()), reverse=True)
    candidates = [np.nextafter(values[0], 2)] + [(a + b) / 2 for a, b in pairwise(values)] + [values[-1]]
    counts = [sum((s >= t) == y for s, y in zip(scores.tolist(), same.tolist(), strict=True)) for t in candidates]
    return candidates[counts.index(max(counts))], max(counts)


def evaluate_exact(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats:
    """Return the fold accuracies at the best of all thresholds."""
    scores, accuracies = (left * right).sum(1), []
    for k in range(fold.max() + 1):
        t, _ = try_thresholds(scores[fold != k], same[fold != k])
        accuracies.append(np.mean((scores[fold == k] >= t) == same[fold == k]))
    return np.array(accuracies)
