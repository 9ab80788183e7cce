"""Metrics of features in the plane, at known angles."""

import numpy as np
import pytest

from sfplus.reports.plane_metrics import plane_metrics


def at(degrees: list[float], length: float = 1.0) -> np.ndarray:
    angles = np.radians(degrees)
    return (length * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.float32)


def test_angles_of_known_directions() -> None:
    features, labels = at([-10, 10, 80, 100, 179, 181], 5.0), np.array([0, 0, 1, 1, 2, 2])
    metrics = plane_metrics(features, labels, at([0, 90, 200], 3.0), scarce=2)
    assert metrics == {
        "within_class_angle": pytest.approx((10 + 10 + 1) / 3, abs=1e-4), "nearest_centre_accuracy": 1.0,
        "min_angle": pytest.approx(90, abs=1e-4), "scarce_classifier_angle": pytest.approx(110, abs=1e-4),
    }  # fmt: skip
    assert "scarce_classifier_angle" not in plane_metrics(features, labels, at([0, 90, 200]))


def test_lengths_decide_the_nearest_centre_and_not_the_angle() -> None:
    features, labels = np.concatenate([at([0, 0], 1.0), at([0, 0], 9.0)]), np.array([0, 0, 1, 1])
    metrics = plane_metrics(features, labels, at([0, 180]))
    assert metrics["nearest_centre_accuracy"] == 1 and metrics["within_class_angle"] == pytest.approx(0, abs=1e-3)


def test_directions_at_random_are_at_right_angles_on_average() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20_000, 2)).astype(np.float32), rng.integers(0, 4, 20_000)
    metrics = plane_metrics(features, labels, at([0, 90, 180, 270]))
    assert metrics["within_class_angle"] == pytest.approx(90, abs=2)
    assert metrics["nearest_centre_accuracy"] == pytest.approx(0.25, abs=0.02)


def test_a_class_without_features_does_not_matter() -> None:
    metrics = plane_metrics(at([0, 90]), np.array([0, 2]), at([0, 45, 90]), scarce=1)
    assert metrics["nearest_centre_accuracy"] == 1 and metrics["scarce_classifier_angle"] == pytest.approx(45, abs=1e-4)
