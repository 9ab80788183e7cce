"""Time of the verification protocols against loops over thresholds, and of the search among distractors.

`evaluation.m` and insightface's `calculate_roc` are implemented here with their loops over folds and thresholds, each
step vectorised over all pairs; the search is compared with its matrix product alone, and with the least work: the
product, the lengths of the features and one maximum over the scores; and, where mates may be beaten, each score scaled
and compared once. Run on an otherwise idle machine: make bench. The argument is the number of distractors.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from numpy.typing import NDArray
from racing import race
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from sfplus.verification.identification import identify
from sfplus.verification.pair_features import dots
from sfplus.verification.protocols import insightface, sphereface

ROUNDS = 3
PAIRS, WIDTH, FOLDS = 6000, 1024, 10
PROBES, DISTRACTORS, FEATURE = 1000, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, 512
BLOCK = 4160  # rows that the search multiplies at a time; a power of two would slow the product alone by 10 %

Floats = NDArray[np.float64]


def evaluation_m(left: Floats, right: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]) -> list[float]:
    """Return the fold accuracies of evaluation.m."""
    accuracies = []
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        mean = np.concatenate([left[train], right[train]]).mean(0)
        a, b = left - mean, right - mean
        a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
        scores = (a * b).sum(1)
        thresholds = np.arange(-10000, 10001) / 10000
        s, y = scores[train], same[train]
        accuracy = np.array([((s[y] > t).sum() + (s[~y] < t).sum()) / len(y) for t in thresholds])
        t = thresholds[accuracy == accuracy.max()].mean()
        accuracies.append(((scores[test & same] > t).sum() + (scores[test & ~same] < t).sum()) / test.sum())
    return accuracies


def calculate_roc(left: Floats, right: Floats, same: NDArray[np.bool_]) -> list[float]:
    """Return the fold accuracies of calculate_roc in insightface's verification.py, which also rates all test folds."""
    half = left.shape[1] // 2
    first, second = (normalize(side[:, :half] + side[:, half:]) for side in (left, right))
    distance = np.sum(np.square(np.subtract(first, second)), 1)
    thresholds, accuracies = np.arange(0, 4, 0.01), []

    def rates(t: float, d: Floats, actual: NDArray[np.bool_]) -> tuple[float, float, float]:
        predicted = np.less(d, t)
        tp = np.sum(np.logical_and(predicted, actual))
        fp = np.sum(np.logical_and(predicted, np.logical_not(actual)))
        tn = np.sum(np.logical_and(np.logical_not(predicted), np.logical_not(actual)))
        fn = np.sum(np.logical_and(np.logical_not(predicted), actual))
        return float(tp) / float(tp + fn), float(fp) / float(fp + tn), float(tp + tn) / d.size

    for train, test in KFold(FOLDS, shuffle=False).split(np.arange(len(same))):
        best = int(np.argmax([rates(t, distance[train], same[train])[2] for t in thresholds]))
        for t in thresholds:
            rates(t, distance[test], same[test])
        accuracies.append(rates(thresholds[best], distance[test], same[test])[2])
    return accuracies


def time_protocols() -> None:
    """Print the time of the protocols and of the loops."""
    rng = np.random.default_rng(0)
    same, fold = np.tile(np.repeat([True, False], PAIRS // FOLDS // 2), FOLDS), np.arange(PAIRS) // (PAIRS // FOLDS)
    left, right = rng.standard_normal((2, PAIRS, WIDTH))
    right[same] += 0.12 * left[same]
    assert sphereface(left, right, same, fold).accuracy.tolist() == evaluation_m(left, right, same, fold)
    assert insightface(left, right, same, fold, mirrored=True).accuracy.tolist() == calculate_roc(left, right, same)
    singles = left.astype(np.float32), right.astype(np.float32)
    seconds = race({
        "evaluation.m": lambda: evaluation_m(left, right, same, fold),
        "sphereface": lambda: sphereface(left, right, same, fold),
        "sphereface, float32 features": lambda: sphereface(*singles, same, fold),
        "calculate_roc of insightface": lambda: calculate_roc(left, right, same),
        "insightface": lambda: insightface(left, right, same, fold, mirrored=True),
    })  # fmt: skip
    print(f"{PAIRS:,} pairs of {WIDTH:,}-d features, {FOLDS} folds, equal fold accuracies")
    bases = {"sphereface": "evaluation.m", "insightface": "calculate_roc of insightface"}
    for name, duration in seconds.items():
        base = bases.get(name.split(",")[0])
        print(f"  {name:<34} {1000 * duration:9.1f} ms" + (f"  {seconds[base] / duration:6.0f} x" if base else ""))


def time_search() -> None:
    """Print the time of the search among distractors and of its matrix product."""
    rng = np.random.default_rng(0)
    probes, gallery = rng.standard_normal((2, PROBES, FEATURE), dtype=np.float32)
    block = rng.standard_normal((BLOCK, FEATURE), dtype=np.float32)
    sizes = [min(BLOCK, DISTRACTORS - start) for start in range(0, DISTRACTORS, BLOCK)]
    scores = np.empty((PROBES, BLOCK), np.float32)

    def product() -> None:
        for size in sizes:
            np.matmul(probes, block[:size].T, out=scores[:, :size])

    def least(no_mates: bool) -> None:
        for size in sizes:
            np.matmul(probes, block[:size].T, out=scores[:, :size])
            scale = 1 / np.sqrt(dots(block[:size], block[:size]))
            for at in range(0, PROBES, 64):  # in the cache of a core
                few = scores[at : at + 64, :size]
                few.max(1)
                if no_mates:
                    np.multiply(few, scale, out=few)
                    np.greater_equal(few, 0)

    def ours(gallery: NDArray[np.float32]) -> None:
        identify(probes, np.arange(PROBES), gallery, np.arange(PROBES), (block[:size] for size in sizes))

    found = probes + gallery  # cosines of 0.7 to the probes
    runs = {
        "matrix product alone": product,
        "with lengths and one maximum": lambda: least(False),
        "and one scaling and comparison": lambda: least(True),
        "identify, mates found": lambda: ours(found),
        "identify, mates like distractors": lambda: ours(gallery),
    }
    seconds = race(runs, ROUNDS)
    print(f"{PROBES:,} probes among {DISTRACTORS:,} distractors, {FEATURE}-d")
    for name, duration in seconds.items():
        print(f"  {name:<34} {duration:9.2f} s   {duration / seconds['matrix product alone']:6.2f} of the product")


if __name__ == "__main__":
    print(f"{os.cpu_count()} processors, median of {ROUNDS} rounds")
    time_protocols()
    time_search()
