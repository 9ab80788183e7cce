from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.transform import SimilarityTransform

from sfplus.alignment import TEMPLATES, Template, fit_similarity
from sfplus.errors import PhotoError, UsageError

GOAL = TEMPLATES["sphereface-112x96"].points
FITS = ["image", "template"]


def random_landmarks(count: int, noise: float = 6, seed: int = 0) -> np.ndarray:
    """Return faces of many sizes, rotations and positions, none of them shaped like the template."""
    rng = np.random.default_rng(seed)
    rotation = rng.uniform(0.2, 5, count) * np.exp(1j * rng.uniform(-np.pi, np.pi, count))
    face = (GOAL[:, 0] + 1j * GOAL[:, 1]) + noise * rng.normal(size=(count, 5, 2)) @ [1, 1j]
    points = rotation[:, None] * face + rng.uniform(-300, 300, (count, 2)) @ np.array([1, 1j])[:, None]
    return np.stack([points.real, points.imag], 2)


def skimage_fit(source: np.ndarray, goal: np.ndarray) -> np.ndarray:
    if hasattr(SimilarityTransform, "from_estimate"):
        return SimilarityTransform.from_estimate(source, goal).params[:2]
    transform = SimilarityTransform()
    assert transform.estimate(source, goal)
    return transform.params[:2]


def dense_fit(source: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Solve x' = a x - b y + c, y' = b x + a y + d by least squares, the equations in cp2tform's documentation."""
    x, y = source.T
    one, zero = np.ones(5), np.zeros(5)
    system = np.vstack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, goal.T.ravel(), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def test_the_template_fit_is_that_of_scikit_image() -> None:
    landmarks = random_landmarks(200)
    expected = np.stack([skimage_fit(points, GOAL) for points in landmarks])
    np.testing.assert_allclose(fit_similarity(landmarks, "sphereface-112x96", "template"), expected, atol=1e-8)


def test_the_image_fit_is_the_inverse_of_the_fit_from_template_to_photo() -> None:
    landmarks = random_landmarks(200)
    forward = np.stack([np.vstack([dense_fit(GOAL, points), [0, 0, 1]]) for points in landmarks])
    expected = np.linalg.inv(forward)[:, :2]
    np.testing.assert_allclose(fit_similarity(landmarks, "sphereface-112x96", "image"), expected, atol=1e-8)


def test_the_fits_differ_in_scale_by_the_squared_correlation_only() -> None:
    landmarks = random_landmarks(50)
    image, template = (fit_similarity(landmarks, "arcface-112x112", fit)[:, :, :2] for fit in FITS)
    ratio = np.linalg.norm(image, axis=1)[:, 0] / np.linalg.norm(template, axis=1)[:, 0]
    np.testing.assert_allclose(image, template * ratio[:, None, None], atol=1e-9)
    z, t = landmarks @ [1, 1j], GOAL @ [1, 1j]
    z, t = z - z.mean(1, keepdims=True), t - t.mean()
    r = abs((z.conj() * t).sum(1)) / np.sqrt((abs(z) ** 2).sum(1) * (abs(t) ** 2).sum())
    np.testing.assert_allclose(ratio, 1 / r**2, rtol=1e-9)


coordinates = st.floats(-1e4, 1e4, width=32)
shapes = arrays(np.float64, (5, 2), elements=coordinates)


@st.composite
def similarities(draw: Any) -> np.ndarray:
    scale, angle = draw(st.floats(0.1, 10)), draw(st.floats(-np.pi, np.pi))
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[a, -b, draw(coordinates)], [b, a, draw(coordinates)], [0, 0, 1]])


def fitted(points: np.ndarray, fit: str) -> np.ndarray:
    """Return the 3x3 matrix, for landmarks that are far from degenerate."""
    z, t = points @ [1, 1j], GOAL @ [1, 1j]
    z, t = z - z.mean(), t - t.mean()
    assume(np.linalg.norm(z) > 1)
    assume(abs((z.conj() * t).sum()) > 0.05 * np.linalg.norm(z) * np.linalg.norm(t))
    return np.vstack([fit_similarity(points[None], "sphereface-112x96", fit)[0], [0, 0, 1]])


@settings(max_examples=60, deadline=None)
@given(motion=similarities(), fit=st.sampled_from(FITS))
def test_moved_templates_are_moved_back_exactly(motion: np.ndarray, fit: str) -> None:
    landmarks = GOAL @ motion[:2, :2].T + motion[:2, 2]
    back = fit_similarity(landmarks[None], "sphereface-112x96", fit)[0]
    np.testing.assert_allclose(landmarks @ back[:, :2].T + back[:, 2], GOAL, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(points=shapes, motion=similarities(), fit=st.sampled_from(FITS))
def test_the_fit_follows_the_motion_of_the_photo(points: np.ndarray, motion: np.ndarray, fit: str) -> None:
    before = fitted(points, fit)
    after = fitted(points @ motion[:2, :2].T + motion[:2, 2], fit)
    np.testing.assert_allclose(after @ motion @ [0, 0, 1], before @ [0, 0, 1], atol=1e-2)
    np.testing.assert_allclose((after @ motion)[:2, :2], before[:2, :2], rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(points=shapes, fit=st.sampled_from(FITS))
def test_a_fit_is_never_a_reflection(points: np.ndarray, fit: str) -> None:
    matrix = fitted(points, fit)
    assert np.linalg.det(matrix) > 0
    assert matrix[0, 0] == matrix[1, 1]
    assert matrix[0, 1] == -matrix[1, 0]


def test_batches_do_not_change_the_fit() -> None:
    landmarks = random_landmarks(7)
    expected = np.concatenate([fit_similarity(points[None], "sphereface-112x96") for points in landmarks])
    assert np.array_equal(fit_similarity(landmarks, "sphereface-112x96"), expected)
    assert fit_similarity(landmarks[:0], "sphereface-112x96").shape == (0, 2, 3)
    assert expected.dtype == np.float64


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("landmarks", "reason"),
    [
        (np.full((5, 2), 7.0), "one point"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.full((5, 2), np.inf), "not finite"),
    ],
)
def test_degenerate_landmarks_are_refused(landmarks: np.ndarray, reason: str, fit: str) -> None:
    with pytest.raises(PhotoError, match=rf"landmarks: .*{reason}"):
        fit_similarity(landmarks[None], "sphereface-112x96", fit)
    with pytest.raises(PhotoError, match=rf"face 2: .*{reason}"):
        fit_similarity(np.concatenate([random_landmarks(2), landmarks[None]]), "sphereface-112x96", fit)


@pytest.mark.parametrize("fit", FITS)
def test_landmarks_that_only_fit_as_a_mirror_image_are_refused(fit: str) -> None:
    corners = np.exp(2j * np.pi * np.arange(5) / 5)
    pentagon = Template("pentagon", 9, 9, np.stack([corners.real, corners.imag], 1), "a test")
    mirrored = pentagon.points * [1, -1]
    with pytest.raises(PhotoError, match="like a face"):
        fit_similarity(mirrored[None], pentagon, fit)


def test_invalid_arguments_are_refused() -> None:
    landmarks = random_landmarks(1)
    for invalid in (landmarks[0], landmarks[:, :4], landmarks[..., :1]):
        with pytest.raises(UsageError, match=r"\(N, 5, 2\)"):
            fit_similarity(invalid, "sphereface-112x96")
    with pytest.raises(UsageError, match="no fit"):
        fit_similarity(landmarks, "sphereface-112x96", "umeyama")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no template"):
        fit_similarity(landmarks, "112x96")


def insightface_points() -> np.ndarray:
    return np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )


def test_each_template_has_the_fit_of_its_source_by_default() -> None:
    """insightface fits by scikit-image to its own points; the corners of the crop agree to 1e-6 pixels."""
    landmarks = random_landmarks(50)
    expected = np.stack([skimage_fit(points, insightface_points()) for points in landmarks])
    corners = np.array([[0, 0, 1], [111, 0, 1], [0, 111, 1], [111, 111, 1.0]]).T
    for template in ("arcface-112x112", TEMPLATES["arcface-112x112"], "arcface-112x112".replace("112", "224")):
        scale = 2 if str(template).endswith("224x224") else 1
        matrices = fit_similarity(landmarks, template)
        points = (matrices @ np.linalg.inv(np.array([[*row, [0, 0, 1]] for row in expected.tolist()]))) @ corners
        offset = (scale - 1) / 2  # other sizes are scaled about the centre of the crop, insightface's about its corner
        np.testing.assert_allclose(points, np.broadcast_to(corners[:2] * scale + offset, points.shape), atol=1e-6)
    np.testing.assert_array_equal(
        fit_similarity(landmarks, "sphereface-112x96"), fit_similarity(landmarks, "sphereface-112x96", "image")
    )
    other = fit_similarity(landmarks, "arcface-112x112", "image")
    assert abs(other - fit_similarity(landmarks, "arcface-112x112")).max() > 0.5
