from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from skimage import data

from sfplus.alignment import TEMPLATES, Template, align, centre_crop, fit_similarity, warp
from sfplus.alignment.batches import warp_batch
from sfplus.errors import PhotoError, UsageError
from sfplus.images import list_photos, read_photo

PHOTO = data.astronaut()
# Eyes, nose and mouth corners of the astronaut, read off by eye, counted from 1.
LANDMARKS = np.array([[203.0, 103], [246, 107], [225, 132], [203, 146], [238, 150]])


def sampled(photo: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear with black outside, coordinates counted from 0."""
    channels = [map_coordinates(photo[:, :, c].astype(float), [y, x], order=1, mode="grid-constant") for c in range(3)]
    return np.stack(channels, 2)


def matlab_crop(photo: np.ndarray, landmarks: np.ndarray, tilt: float = 0) -> np.ndarray:
    """face_align_demo.m as written: cp2tform and imtransform, all coordinates counted from 1."""
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
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    landmarks = (LANDMARKS - 225) @ turn.T * 1.5 + 225 + shift
    crop = align(PHOTO, landmarks - 1)
    assert crop.shape == (112, 96, 3)
    assert crop.dtype == np.uint8
    difference = abs(crop - matlab_crop(PHOTO, landmarks))
    assert difference.mean() < 0.6  # OpenCV rounds positions to 1/32 pixel
    moved = abs(crop - matlab_crop(PHOTO, landmarks + 0.25))
    assert moved.mean() > 2 * difference.mean()


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("fit", ["image", "template"])
def test_landmarks_land_on_the_template(template: Template, fit: str) -> None:
    """White dots where the template, moved into the photo, has its points: they come out at the template's points."""
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


def test_identity_shift_and_black_border() -> None:
    small = Template("small", 6, 4, np.arange(10.0).reshape(5, 2), "a test")
    assert np.array_equal(warp(PHOTO, [[1, 0, 0], [0, 1, 0]], small), PHOTO[:4, :6])
    assert np.array_equal(warp(PHOTO, [[1, 0, -100], [0, 1, -50]], small), PHOTO[50:54, 100:106])
    crop = warp(PHOTO, [[1, 0, 3], [0, 1, 2]], small)
    assert np.array_equal(crop[2:, 3:], PHOTO[:2, :3])
    assert not crop[:2].any()
    assert not crop[:, :3].any()


def test_the_arcface_crop_holds_the_sphereface_crop() -> None:
    """Their points differ by 8 pixels in x, and by the one that MATLAB counts more."""
    arcface, sphereface = align(PHOTO, LANDMARKS, "arcface-112x112"), align(PHOTO, LANDMARKS)
    difference = abs(arcface[1:, 9:105].astype(int) - sphereface[:-1])
    assert difference.mean() < 0.6


def test_photos_longer_than_opencv_allows() -> None:
    wide = np.zeros((130, 40_000, 3), np.uint8)
    wide[:, 35_000 : 35_000 + 300] = PHOTO[60:190, 100:400]
    moved = LANDMARKS - 1 + [35_000 - 100, -60]
    near = align(np.ascontiguousarray(wide[:, 34_000:]), moved - [34_000, 0])
    np.testing.assert_allclose(align(wide, moved).astype(int), near, atol=1)
    assert not warp(wide, [[1, 0, 500], [0, 1, 500]]).any()


def test_tiny_photos() -> None:
    for shape in ((1, 1), (1, 300), (300, 1), (5, 4)):
        photo = np.full((*shape, 3), 200, np.uint8)
        assert centre_crop(photo).shape == (112, 96, 3)
        assert align(photo, LANDMARKS).shape == (112, 96, 3)
    assert centre_crop(np.full((1, 1, 3), 200, np.uint8))[56, 48].min() > 180


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_centre_crop_takes_the_middle_of_any_photo(template: Template) -> None:
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
def test_wrong_arguments(photo: np.ndarray, matrix: np.ndarray, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        warp(photo, matrix)


def test_align_refuses_what_is_not_one_face() -> None:
    with pytest.raises(UsageError, match=r"\(5, 2\)"):
        align(PHOTO, LANDMARKS[None])
    with pytest.raises(PhotoError, match="one point"):
        align(PHOTO, LANDMARKS * 0)


@pytest.mark.slow
def test_centre_crop_covers_what_aligned_crops_of_lfw_cover(shared_data: Path) -> None:
    from sfplus.detection import Detector, choose

    root = shared_data / "lfw" / "photos"
    found = Detector(device="cpu").detect([root / name for name in list_photos(root)[::130]])
    chosen = [faces.landmarks[choice.index] for faces in found if (choice := choose(faces, 250, 250))]
    matrices = fit_similarity(np.stack(chosen), "sphereface-112x96")
    middles = np.linalg.solve(matrices[:, :, :2], [[47.5], [55.5]] - matrices[:, :, 2:])[:, :, 0]
    assert np.median(112 / np.linalg.norm(matrices[:, :, 0], axis=1)) == pytest.approx(0.52 * 250, abs=3)
    np.testing.assert_allclose(np.median(middles, 0), [124.5, 124.5 - 7.5], atol=2)
    assert read_photo(root / list_photos(root)[0]).shape == (250, 250, 3)


SMALL = fit_similarity(LANDMARKS[None] * 2.9 - 300, "sphereface-112x96")[
    0
]  # 2.9 pixels of the photo to one of the crop


def positions(matrix: np.ndarray, height: int = 112, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """x and y in the photo of each pixel of the crop."""
    v, u = np.mgrid[:height, :width].astype(float)
    x, y = np.linalg.solve(matrix[:, :2], np.stack([u.ravel(), v.ravel()]) - matrix[:, 2:])
    return x.reshape(height, width), y.reshape(height, width)


@pytest.mark.parametrize("interpolation", ["bilinear", "area", "antialiased"])
def test_interpolations_show_the_same_place(interpolation: str) -> None:
    """A photo whose colour is its place: averaging does not move it."""
    y, x = np.mgrid[:512, :512]
    photo = np.stack([x / 2, y / 2, 0 * x + 77], 2).astype(np.uint8)
    photo = photo[:500, :497]  # sides that are no multiples
    crop = warp(photo, SMALL, interpolation=interpolation, border="replicate").astype(float)  # type: ignore[arg-type]
    expected_x, expected_y = positions(SMALL)
    inside = (expected_x > 9) & (expected_x < 487) & (expected_y > 9) & (expected_y < 490)
    assert inside.sum() > 5000
    assert abs(crop[..., 0] - (expected_x - 0.5) / 2)[inside].max() < 1.2
    assert abs(crop[..., 1] - (expected_y - 0.5) / 2)[inside].max() < 1.2
    assert abs((crop[..., 0] - (expected_x - 0.5) / 2)[inside].mean()) < 0.1


def test_smoothing_removes_what_the_crop_cannot_show() -> None:
    """Columns by turns black and white: grey, but for bilinear interpolation, which picks some of them."""
    photo = np.zeros((400, 400, 3), np.uint8)
    photo[:, ::2] = 255
    crops = {
        name: warp(photo, [[0.3, 0, 0], [0, 0.3, 0]], interpolation=name)
        for name in ("bilinear", "area", "antialiased")
    }  # type: ignore[arg-type]
    deviation = {name: crop[5:100, 5:90].std() for name, crop in crops.items()}
    assert deviation["bilinear"] > 60 and deviation["antialiased"] < 15 and deviation["area"] < 50


@pytest.mark.parametrize("interpolation", ["area", "antialiased"])
def test_nothing_is_smoothed_where_the_crop_has_more_pixels(interpolation: str) -> None:
    matrix = fit_similarity(LANDMARKS[None] * 0.9, "sphereface-112x96")[0]
    assert np.array_equal(warp(PHOTO, matrix, interpolation=interpolation), warp(PHOTO, matrix))  # type: ignore[arg-type]


def test_borders() -> None:
    white, far = np.full((50, 50, 3), 255, np.uint8), [[1, 0, 200], [0, 1, 200]]
    assert warp(white, far).max() == 0 and warp(white, far, border="replicate").min() == 255


@pytest.mark.parametrize("name", ["interpolation", "border"])
def test_unknown_ways(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: there is no 'cubic'"):
        warp(PHOTO, [[1, 0, 0], [0, 1, 0]], **{name: "cubic"})  # type: ignore[arg-type]


@pytest.mark.parametrize("border", ["black", "replicate"])
def test_batches_are_the_warp_of_opencv(border: str) -> None:
    photos = np.stack([PHOTO, PHOTO[::-1], PHOTO[:, ::-1]])
    matrices = fit_similarity(np.stack([LANDMARKS, LANDMARKS + 40, LANDMARKS * 1.3 - 200]), "arcface-112x112")
    crops = warp_batch(torch.from_numpy(photos.transpose(0, 3, 1, 2).copy()), matrices, "arcface-112x112", border)  # type: ignore[arg-type]
    assert crops.shape == (3, 3, 112, 112) and crops.dtype == torch.uint8
    for photo, matrix, crop in zip(photos, matrices, crops, strict=True):
        expected = warp(np.ascontiguousarray(photo), matrix, "arcface-112x112", border=border).astype(float)  # type: ignore[arg-type]
        assert abs(crop.permute(1, 2, 0).numpy() - expected).mean() < 0.6


def test_batches_of_wrong_shape() -> None:
    with pytest.raises(UsageError, match=r"expected \(N, 3, H, W\)"):
        warp_batch(torch.zeros(2, 3, 9, 9), np.zeros((1, 2, 3)))
    with pytest.raises(UsageError, match="border"):
        warp_batch(torch.zeros(1, 3, 9, 9), np.eye(3)[None, :2], border="mirror")  # type: ignore[arg-type]
