from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage import data
from skimage.transform import SimilarityTransform

from sfplus.alignment import TEMPLATES, Template, align, centre_crop, fit_similarity, narrow_crop, warp
from sfplus.errors import PhotoError, UsageError
from sfplus.images import list_photos, read_photo

PHOTO = data.astronaut()
# Eyes, nose and mouth corners of the astronaut, annotated by hand, counted from 1.
LANDMARKS = np.array([[203.0, 103], [246, 107], [225, 132], [203, 146], [238, 150]])


def sampled(photo: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample bilinearly with black outside; coordinates are counted from 0."""
    channels = [map_coordinates(photo[:, :, c].astype(float), [y, x], order=1, mode="grid-constant") for c in range(3)]
    return np.stack(channels, 2)


def matlab_crop(photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return the crop of face_align_demo.m: cp2tform and imtransform, all coordinates counted from 1."""
    template = np.array(
        [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    )
    x, y = template.T
    system = np.vstack([np.stack([x, -y, 1 + 0 * x, 0 * x], 1), np.stack([y, x, 0 * x, 1 + 0 * x], 1)])
    a, b, c, d = np.linalg.lstsq(system, landmarks.T.ravel(), rcond=None)[0]
    v, u = np.mgrid[1:113, 1:97]
    return sampled(photo, a * u - b * v + c - 1, b * u + a * v + d - 1)


@pytest.mark.parametrize("roll", [0, 0.7, -2.5])
@pytest.mark.parametrize("shift", [0, 150])
def test_align_gives_the_crop_of_the_matlab_code(roll: float, shift: float) -> None:
    rotation = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    landmarks = (LANDMARKS - 225) @ rotation.T * 1.5 + 225 + shift
    crop = align(PHOTO, landmarks - 1)
    assert crop.shape == (112, 96, 3)
    assert crop.dtype == np.uint8
    difference = abs(crop - matlab_crop(PHOTO, landmarks))
    assert difference.mean() < 0.6  # OpenCV rounds positions to 1/32 pixel
    moved = abs(crop - matlab_crop(PHOTO, landmarks + 0.25))
    assert moved.mean() > 2 * difference.mean()


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("fit", ["image", "template"])
def test_landmarks_are_moved_to_the_points_of_the_template(template: Template, fit: str) -> None:
    """White dots at the landmarks of the photo appear at the points of the template."""
    photo = np.zeros((400, 300, 3), np.uint8)
    landmarks = np.rint(template.points * 2 @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + [150, 60]).astype(int)
    for x, y in landmarks:
        photo[y - 2 : y + 3, x - 2 : x + 3] = 255
    crop = align(photo, landmarks, template, fit).mean(2)
    rows, columns = np.mgrid[: template.height, : template.width]
    for x, y in template.points:
        near = np.where((abs(columns - x) < 5) & (abs(rows - y) < 5), crop, 0)
        centre = (near * columns).sum() / near.sum(), (near * rows).sum() / near.sum()
        np.testing.assert_allclose(centre, (x, y), atol=0.35)


def test_shifts_by_whole_pixels_are_exact() -> None:
    small = Template("small", 6, 4, np.arange(10.0).reshape(5, 2), "a test")
    assert np.array_equal(warp(PHOTO, [[1, 0, 0], [0, 1, 0]], small), PHOTO[:4, :6])
    assert np.array_equal(warp(PHOTO, [[1, 0, -100], [0, 1, -50]], small), PHOTO[50:54, 100:106])
    crop = warp(PHOTO, [[1, 0, 3], [0, 1, 2]], small)
    assert np.array_equal(crop[2:, 3:], PHOTO[:2, :3])
    assert not crop[:2].any()
    assert not crop[:, :3].any()


def test_the_arcface_crop_contains_the_sphereface_crop() -> None:
    """With one fit, they differ by 8 pixels in x, and by 1 because MATLAB counts from 1."""
    arcface, sphereface = align(PHOTO, LANDMARKS, "arcface-112x112", "image"), align(PHOTO, LANDMARKS)
    difference = abs(arcface[1:, 9:105].astype(int) - sphereface[:-1])
    assert difference.mean() < 0.6


def test_photos_beyond_the_limit_of_opencv_are_warped() -> None:
    wide = np.zeros((130, 40_000, 3), np.uint8)
    wide[:, 35_000 : 35_000 + 300] = PHOTO[60:190, 100:400]
    moved = LANDMARKS - 1 + [35_000 - 100, -60]
    near = align(np.ascontiguousarray(wide[:, 34_000:]), moved - [34_000, 0])
    np.testing.assert_allclose(align(wide, moved).astype(int), near, atol=1)
    assert not warp(wide, [[1, 0, 500], [0, 1, 500]]).any()


def test_tiny_photos_give_crops_of_full_size() -> None:
    for shape in ((1, 1), (1, 300), (300, 1), (5, 4)):
        photo = np.full((*shape, 3), 200, np.uint8)
        assert centre_crop(photo).shape == (112, 96, 3)
        assert align(photo, LANDMARKS).shape == (112, 96, 3)
    assert centre_crop(np.full((1, 1, 3), 200, np.uint8))[56, 48].min() > 180


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_centre_crop_shows_the_middle_of_any_photo(template: Template) -> None:
    rows, columns = np.mgrid[:250, :250].astype(np.uint8)
    crop = centre_crop(np.stack([rows, columns, 0 * rows], 2), template)
    top, bottom, left, right = crop[0, 0, 0], crop[-1, 0, 0], crop[0, 0, 1], crop[0, -1, 1]
    assert bottom - top == pytest.approx(130, abs=3)  # 0.52 of the side
    assert (right - left) / (bottom - top) == pytest.approx(template.width / template.height, abs=0.02)
    assert (int(top) + bottom) / 2 == pytest.approx(124.5 - 7.5, abs=1)
    assert (int(left) + right) / 2 == pytest.approx(124.5, abs=1)
    side = np.zeros((250, 500, 3), np.uint8)
    side[:, 125:375, 0], side[:, 125:375, 1] = rows, columns
    assert np.array_equal(centre_crop(side, template)[..., :2], crop[..., :2])


@pytest.mark.parametrize(
    ("photo", "matrix", "reason"),
    [
        (PHOTO.astype(float), np.eye(2, 3), "uint8"),
        (PHOTO[:, :, 0], np.eye(2, 3), "uint8"),
        (PHOTO[:0], np.eye(2, 3), "uint8"),
        (PHOTO, np.eye(3), r"\(2, 3\)"),
        (PHOTO, np.zeros((2, 3)), "no inverse"),
        (PHOTO, np.full((2, 3), np.nan), "no inverse"),
    ],
)
def test_invalid_arguments_are_refused(photo: np.ndarray, matrix: np.ndarray, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        warp(photo, matrix)


def test_align_refuses_landmarks_that_are_not_one_face() -> None:
    with pytest.raises(UsageError, match=r"\(5, 2\)"):
        align(PHOTO, LANDMARKS[None])
    with pytest.raises(PhotoError, match="one point"):
        align(PHOTO, LANDMARKS * 0)


@pytest.mark.slow
def test_centre_crop_shows_the_region_of_aligned_crops_of_lfw(shared_data: Path) -> None:
    from sfplus.detection import Detector, choose

    root = shared_data / "lfw" / "photos"
    detections = Detector(device="cpu").detect([root / name for name in list_photos(root)[::130]])
    chosen = [faces.landmarks[choice.index] for faces in detections if (choice := choose(faces, 250, 250))]
    matrices = fit_similarity(np.stack(chosen), "sphereface-112x96")
    middles = np.linalg.solve(matrices[:, :, :2], [[47.5], [55.5]] - matrices[:, :, 2:])[:, :, 0]
    assert np.median(112 / np.linalg.norm(matrices[:, :, 0], axis=1)) == pytest.approx(0.52 * 250, abs=3)
    np.testing.assert_allclose(np.median(middles, 0), [124.5, 124.5 - 7.5], atol=2)
    assert read_photo(root / list_photos(root)[0]).shape == (250, 250, 3)


SMALL = fit_similarity(LANDMARKS[None] * 2.9 - 300, "sphereface-112x96")[
    0
]  # a pixel of the crop has 2.9 pixels of the photo


def positions(matrix: np.ndarray, height: int = 112, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y in the photo of each pixel of the crop."""
    v, u = np.mgrid[:height, :width].astype(float)
    x, y = np.linalg.solve(matrix[:, :2], np.stack([u.ravel(), v.ravel()]) - matrix[:, 2:])
    return x.reshape(height, width), y.reshape(height, width)


@pytest.mark.parametrize("interpolation", ["bilinear", "area", "antialiased"])
def test_interpolations_do_not_move_the_image(interpolation: str) -> None:
    """The colours of the photo encode positions, which averaging must not change."""
    y, x = np.mgrid[:512, :512]
    photo = np.stack([x / 2, y / 2, 0 * x + 77], 2).astype(np.uint8)
    photo = photo[:500, :497]  # sides that are not multiples of 2
    crop = warp(photo, SMALL, interpolation=interpolation, border="replicate").astype(float)  # type: ignore[arg-type]
    expected_x, expected_y = positions(SMALL)
    inside = (expected_x > 9) & (expected_x < 487) & (expected_y > 9) & (expected_y < 490)
    assert inside.sum() > 5000
    assert abs(crop[..., 0] - (expected_x - 0.5) / 2)[inside].max() < 1.2
    assert abs(crop[..., 1] - (expected_y - 0.5) / 2)[inside].max() < 1.2
    assert abs((crop[..., 0] - (expected_x - 0.5) / 2)[inside].mean()) < 0.1


def test_smoothing_removes_details_finer_than_a_pixel_of_the_crop() -> None:
    """Alternating black and white columns become grey, except by bilinear interpolation, which picks some of them."""
    photo = np.zeros((400, 400, 3), np.uint8)
    photo[:, ::2] = 255
    crops = {
        name: warp(photo, [[0.3, 0, 0], [0, 0.3, 0]], interpolation=name)
        for name in ("bilinear", "area", "antialiased")
    }  # type: ignore[arg-type]
    deviation = {name: crop[5:100, 5:90].std() for name, crop in crops.items()}
    assert deviation["bilinear"] > 60 and deviation["antialiased"] < 15 and deviation["area"] < 50


@pytest.mark.parametrize("shrink", [2, 4])
def test_the_blur_has_a_standard_deviation_of_half_a_pixel_of_the_crop(shrink: float) -> None:
    """It damps a wave of period P pixels by exp(-2 (pi sigma / P)^2), sigma^2 = (shrink^2 - 1) / 4."""
    period, amplitude = 6 * shrink, 100
    wave = np.rint(128 + amplitude * np.cos(2 * np.pi / period * np.arange(400))).astype(np.uint8)
    photo = np.ascontiguousarray(np.broadcast_to(wave[None, :, None], (400, 400, 3)))
    template = Template("wide", 400 // shrink, 100 // shrink, np.arange(10.0).reshape(5, 2), "a test")
    crop = warp(photo, [[1 / shrink, 0, 0], [0, 1 / shrink, 0]], template, "antialiased")
    row = crop[50 // shrink, 12:-12, 0].astype(float)[: 6 * ((400 // shrink - 24) // 6)]  # whole periods
    damped = 2 * abs(np.mean(row * np.exp(2j * np.pi / 6 * np.arange(len(row)))))
    sigma = np.sqrt((shrink**2 - 1) / 4)
    assert damped / amplitude == pytest.approx(np.exp(-2 * (np.pi * sigma / period) ** 2), abs=0.02)


@pytest.mark.parametrize("interpolation", ["area", "antialiased"])
def test_enlarged_photos_are_not_smoothed(interpolation: str) -> None:
    matrix = fit_similarity(LANDMARKS[None] * 0.9, "sphereface-112x96")[0]
    assert np.array_equal(warp(PHOTO, matrix, interpolation=interpolation), warp(PHOTO, matrix))  # type: ignore[arg-type]


def test_pixels_outside_the_photo_are_black_or_replicated() -> None:
    white, far = np.full((50, 50, 3), 255, np.uint8), [[1, 0, 200], [0, 1, 200]]
    assert warp(white, far).max() == 0 and warp(white, far, border="replicate").min() == 255


@pytest.mark.parametrize("name", ["interpolation", "border"])
def test_unknown_interpolations_and_borders_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: 'cubic' is not supported"):
        warp(PHOTO, [[1, 0, 0], [0, 1, 0]], **{name: "cubic"})  # type: ignore[arg-type]


def test_a_narrow_crop_is_the_middle_of_a_wide_one() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(narrow_crop(crop), crop[:, 8:104])
    with pytest.raises(PhotoError, match=r"a\.png: is 112x96, not 112x112"):
        narrow_crop(crop[:, 8:104], "a.png")


def test_the_arcface_crop_is_that_of_insightface() -> None:
    """insightface: scikit-image's similarity to its five points, then cv2.warpAffine with black outside."""
    destination = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    rng = np.random.default_rng(0)
    for _ in range(5):
        landmarks = LANDMARKS + rng.normal(size=(5, 2)) * 6
        transform = SimilarityTransform.from_estimate(landmarks, np.array(destination))
        expected = cv2.warpAffine(PHOTO, transform.params[:2], (112, 112), borderValue=0.0)
        np.testing.assert_array_equal(align(PHOTO, landmarks, "arcface-112x112"), expected)
        assert (align(PHOTO, landmarks, "arcface-112x112", "image") != expected).mean() > 0.1
