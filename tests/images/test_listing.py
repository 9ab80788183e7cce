"""Listing the photos of a folder, and encoding images."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sfplus.errors import DatasetError, PhotoError
from sfplus.images import encode_image, list_left_out, list_photos, read_photo

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


SYSTEM_FILES = {
    "@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg": "@eaDir",
    "a/@eaDir/SYNO.jpg": "@eaDir",
    ".thumbnails/normal/x.png": ".thumbnails",
    "__MACOSX/album/._1.jpg": "__MACOSX",
    "__MACOSX/album/1.jpg": "__MACOSX",
    ".Trash/old.jpg": ".Trash",
    ".Trash-1000/files/old.jpg": ".Trash-1000",
    "$RECYCLE.BIN/S-1/old.JPG": "$RECYCLE.BIN",
    "#recycle/old.jpg": "#recycle",
    "@Recycle/old.jpg": "@Recycle",
    ".@__thumb/s800.jpg": ".@__thumb",
    "a/._1.jpg": "._*",
    "a/._2.jpg": "._*",
    ".hidden.jpg": ".hidden.jpg",
    ".private/deep/.1.jpg": ".private",
}
NO_PHOTOS = [
    "Thumbs.db",
    ".DS_Store",
    "notes.txt",
    "index.parquet",
    "labels.json",
    "noext",
    "a/@eaDir/x.txt",
    "._a.txt",
]


def test_thumbnails_deleted_and_hidden_photos_are_skipped_and_counted(tmp_path: Path) -> None:
    for name in [*SYSTEM_FILES, *NO_PHOTOS, "a/1.jpg", "@eadirs/2.jpg", ".sfplus/cache/3.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_photos(tmp_path) == ["@eadirs/2.jpg", "a/1.jpg"]
    left_out = list_left_out(tmp_path)
    assert +left_out.hidden == Counter(SYSTEM_FILES.values()) and not left_out.videos and not left_out.unread


def test_a_hidden_root_is_listed(tmp_path: Path) -> None:
    for name in (".photos", "@eaDir"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
        assert list_photos(tmp_path / name) == ["1.jpg"]


def test_videos_and_photos_of_other_formats_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "linked")
    for name in ("in/a.MOV", "linked/b.mp4", "in/a.NEF", "linked/b.psd", "in/a.jpg", "in/@eaDir.mov"):
        (tmp_path / name).touch()
    left_out = list_left_out(tmp_path / "in")
    assert sorted(left_out.videos) == ["@eaDir.mov", "a.MOV", "link/b.mp4"]
    assert sorted(left_out.unread) == ["a.NEF", "link/b.psd"] and not +left_out.hidden


@pytest.mark.skipif(ROOT, reason="root can read everything")
def test_a_hidden_folder_without_permission_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0)
    assert list_photos(tmp_path) == [] and not list_left_out(tmp_path).hidden
