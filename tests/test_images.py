"""Listing the photos of a folder, and encoding images."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sfplus.errors import DatasetError, PhotoError, UsageError
from sfplus.images import encode_image, list_photos, read_photo

ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0
HARD_NAMES = [
    "a b.jpg",
    'it\'s "quoted".jpg',
    "two\nlines.jpg",
    "Zoë 王.jpeg",
    os.fsdecode(b"raw\xff\xfe.png"),
    "UP.JPG",
]


def colours() -> np.ndarray:
    """Return 5x8 pixels, all different, so that rotations are visible."""
    ramp = np.arange(8 * 5, dtype=np.uint8).reshape(5, 8)
    return np.stack([ramp * 6, 255 - ramp * 3, ramp], 2)


def test_photos_at_any_depth_are_listed_in_order(tmp_path: Path) -> None:
    photos = [*HARD_NAMES, "z/y/x/deep.webp", "a/1.tif", "a/b.gif", "a.b/c.pgm", "folder.jpg/in.bmp"]
    ignored = ["notes.txt", "jpg", "a/1.jpg.txt", ".hidden.jpg", ".git/1.jpg", "a/.cache/2.jpg", "z/clip.mp4"]
    for name in photos + ignored:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert list_photos(tmp_path) == sorted(photos)


def test_hard_names_can_be_read_back(tmp_path: Path) -> None:
    for name in HARD_NAMES:
        (tmp_path / name).write_bytes(encode_image(colours(), ".png"))
    assert all(np.array_equal(read_photo(tmp_path / name), colours()) for name in list_photos(tmp_path))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    (outside / "deep").mkdir(parents=True)
    for photo in (root / "a" / "1.jpg", outside / "2.jpg", outside / "deep" / "3.jpg"):
        photo.touch()
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b").symlink_to(outside)
    (outside / "deep" / "back").symlink_to(outside)
    (root / "round.jpg").symlink_to(root / "round.jpg")
    (root / "broken.jpg").symlink_to(root / "gone.jpg")
    (root / "photo.jpg").symlink_to(outside / "2.jpg")
    assert list_photos(root) == ["a/1.jpg", "b/2.jpg", "b/deep/3.jpg", "broken.jpg", "photo.jpg", "round.jpg"]
    for broken in ("broken.jpg", "round.jpg"):
        with pytest.raises(PhotoError, match=r"cannot be read.*link"):
            read_photo(root / broken)


def test_one_folder_linked_twice_is_listed_twice(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.jpg").touch()
    (tmp_path / "y").symlink_to(tmp_path / "x")
    assert list_photos(tmp_path) == ["x/1.jpg", "y/1.jpg"]


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, reason in (("gone", "No such file"), ("file", "Not a directory")):
        with pytest.raises(DatasetError, match=reason):
            list_photos(tmp_path / name)


@pytest.mark.skipif(ROOT, reason="root can read everything")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DatasetError, match="Permission denied"):
        list_photos(tmp_path)


@pytest.mark.slow
def test_listing_is_fast(tmp_path: Path) -> None:
    for folder in range(50):
        (tmp_path / f"{folder:05d}").mkdir()
        for photo in range(100):
            (tmp_path / f"{folder:05d}" / f"{photo}.jpg").touch()
    start = time.process_time()
    assert len(list_photos(tmp_path)) == 5_000
    assert time.process_time() - start < 0.5  # 500,000 in less than a minute


def test_png_is_lossless_and_jpeg_has_the_requested_quality() -> None:
    image = data.astronaut()[:128, :128]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(image, ".PNG")))), image)
    sizes = [len(encode_image(image, ".jpeg", quality)) for quality in (30, 75, 95)]
    assert sizes == sorted(set(sizes))
    assert len(encode_image(image)) == sizes[1]
    with Image.open(io.BytesIO(encode_image(image))) as decoded:
        assert decoded.format == "JPEG"
    assert encode_image(image) == encode_image(image.copy())


@pytest.mark.parametrize(
    ("image", "suffix", "quality"),
    [
        (colours().astype(np.float32), ".jpg", 75),
        (colours()[:, :, 0], ".jpg", 75),
        (colours()[:0], ".jpg", 75),
        (colours(), ".gif", 75),
        (colours(), "jpg", 75),
        (colours(), ".jpg", 0),
    ],
)
def test_invalid_arguments_of_encode_image_are_refused(image: np.ndarray, suffix: str, quality: int) -> None:
    with pytest.raises(UsageError):
        encode_image(image, suffix, quality)
