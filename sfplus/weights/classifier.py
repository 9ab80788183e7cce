"""The classifier that is saved with a face network."""

from __future__ import annotations

from pathlib import Path

from sfplus.hypersphere import Uniformity, measure_uniformity
from sfplus.weights import HEAD
from sfplus.weights.model_folder import load_tensors

_MAX_CLASSES = 20_000  # measured of a larger classifier: time grows with the square of the number


def classifier_uniformity(folder: Path) -> Uniformity | None:
    """Measure how uniformly the classes of a model's classifier are distributed on the sphere.

    Args:
        folder: The folder of the model.

    Returns:
        The measurement, over the first 20,000 classes at most, or None if the model has no classifier of two classes.

    Raises:
        WeightsError: If the file of the classifier is damaged.
    """
    weight = load_tensors(folder / HEAD).get("weight") if (folder / HEAD).is_file() else None
    return None if weight is None or len(weight) < 2 else measure_uniformity(weight[:_MAX_CLASSES].float())
