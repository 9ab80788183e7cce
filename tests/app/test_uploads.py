"""Uploads are decoded within limits of bytes, pixels and time, without a file on the disk."""

from __future__ import annotations

import io
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slow_cases import slow

from sfplus.app import uploads
from sfplus.app.uploads import UploadReader
from sfplus.errors import PhotoError
from sfplus.images import read_photo


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_a_photo_is_decoded_as_read_photo_does_and_large_ones_are_scaled_down(
    reader: UploadReader, drawn: Path
) -> None:
    photo = min(drawn.glob("*/*.jpg"))
    np.testing.assert_array_equal(reader.read(photo.read_bytes(), photo.name), read_photo(photo))
    assert reader.read(png(6000, 30), "wide.png").shape == (20, 4096, 3)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        slow("a.jpg", b"", "a.jpg: is empty (0 bytes)"),
        ("a.jpg", b"no photo", "a.jpg: is not a photo in a known format; convert it to JPEG or PNG"),
        slow("film.mp4", b"x", "film.mp4: is a video"),
        slow("raw.cr2", b"II*\0", "raw.cr2: has a format that sfplus does not read"),
        ("a.png", png(8000, 8001), "a.png: has too many pixels (8001x8000, the limit is 64,000,000)"),
        ("a.png", png(900, 900)[:60], "a.png: cannot be decoded, it is damaged or truncated"),
        slow("../../etc/passwd", b"x", "passwd: is not a photo"),
        ("C:\\photos\\a\x1b[31m\0.jpg", b"x", r"a\x1b[31m\x00.jpg: is not a photo"),
        slow("", b"x", "photo: is not a photo"),
        slow("..", b"x", "..: is not a photo"),
    ],
)
def test_what_is_not_a_photo_is_refused_in_one_line(name: str, data: bytes, message: str, reader: UploadReader) -> None:
    with pytest.raises(PhotoError) as raised:
        reader.read(data, name)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_bytes_are_limited(reader: UploadReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 2**20)
    with pytest.raises(PhotoError, match=r"large.jpg: has more than 1 MB; make it smaller"):
        reader.read(bytes(2**20 + 1), "large.jpg")


@pytest.mark.slow
def test_a_photo_that_takes_too_long_is_stopped_and_others_are_decoded_meanwhile(
    reader: UploadReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_SECONDS", 3)
    with ThreadPoolExecutor() as threads:
        process = reader._next
        process.send_signal(signal.SIGSTOP)  # as good as a photo that takes for ever, on any machine
        slow = threads.submit(reader.read, png(8, 8), "slow.jpg")
        while reader._next is process:
            time.sleep(0.01)
        assert reader.read(png(8, 8), "fast.png").shape == (8, 8, 3) and not slow.done()
        with pytest.raises(PhotoError, match=r"slow.jpg: takes more than 3 s to decode; save it again as JPEG"):
            slow.result()


def test_a_decoder_that_crashes_ends_only_its_photo(reader: UploadReader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader._next.kill()
    with pytest.raises(PhotoError, match=r"a.png: cannot be decoded"):
        reader.read(png(8, 8), "a.png")
    assert reader.read(png(8, 8), "a.png").shape == (8, 8, 3)


def test_files_in_the_current_folder_are_not_part_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("print('mine')")
    (tmp_path / "PIL.py").write_text("print('mine')")
    monkeypatch.chdir(tmp_path)
    with UploadReader() as reader:
        assert reader.read(png(8, 8), "a.png").shape == (8, 8, 3)
