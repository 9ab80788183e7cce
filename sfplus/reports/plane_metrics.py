"""Numbers of features in the plane: how narrow classes are, and how far apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def plane_metrics(
    features: Floats, labels: NDArray[np.int64], classifiers: Floats, scarce: int | None = None
) -> dict[str, float]:
    """Return metrics of the features of a classifier in the plane.

    - `within_class_angle`: the mean angle in degrees between a feature and the mean direction of its class; 90 for
      directions at random.
    - `nearest_centre_accuracy`: how many features have the mean feature of their class as the nearest one, among
      those of all classes. It needs no confident softmax, unlike the accuracy of bounded features.
    - `min_angle`: the smallest angle in degrees between the weights of two classes.
    - `scarce_classifier_angle`: that of one class to the nearest other one.

    Args:
        features: (N, d).
        labels: (N,), from 0.
        classifiers: (C, d), the weights of the classes.
        scarce: a class; None for no `scarce_classifier_angle`.
    """
    units, weights = _directions(features), _directions(classifiers)
    present = np.unique(labels)
    means = _directions(np.stack([units[labels == label].mean(0) for label in present]))
    row = np.searchsorted(present, labels)
    centres = np.stack([features[labels == label].mean(0, dtype=np.float64) for label in present])
    distances = np.square(features[:, None] - centres).sum(2)
    angles = _degrees(weights @ weights.T)
    np.fill_diagonal(angles, np.inf)
    metrics = {
        "within_class_angle": float(_degrees((units * means[row]).sum(1)).mean()),
        "nearest_centre_accuracy": float((distances.argmin(1) == row).mean()),
        "min_angle": float(angles.min()),
    }
    if scarce is not None:
        metrics["scarce_classifier_angle"] = float(angles[scarce].min())
    return metrics


def _directions(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def _degrees(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
