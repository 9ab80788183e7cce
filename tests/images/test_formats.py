"""Every format of photos that is listed is also read; formats that cannot be read say why."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from skimage import data

from sfplus.errors import PhotoError
from sfplus.images import PHOTO_SUFFIXES, decode_photo, heic_is_readable, list_photos, read_photo
from sfplus.images.formats import HEIC_SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES

PHOTO = Image.fromarray(data.astronaut()).resize((128, 96))
ENCODERS = {
    "JPEG": [".jpg", ".jpeg", ".jpe", ".jfif"],
    "MPO": [".mpo"],
    "PNG": [".png", ".apng"],
    "BMP": [".bmp", ".dib"],
    "WEBP": [".webp"],
    "TIFF": [".tif", ".tiff"],
    "GIF": [".gif"],
    "AVIF": [".avif", ".avifs"],
    "JPEG2000": [".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"],
    "PPM": [".ppm", ".pnm", ".pgm", ".pbm"],
    "HEIF": sorted(HEIC_SUFFIXES),
}
SUFFIXES = [(encoder, suffix) for encoder, suffixes in ENCODERS.items() for suffix in suffixes]


def encode(encoder: str, image: Image.Image = PHOTO, **options: object) -> bytes:
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, encoder, **options)
    return buffer.getvalue()


def test_the_table_has_all_suffixes() -> None:
    assert sorted(suffix for _, suffix in SUFFIXES) == sorted(PHOTO_SUFFIXES)
    assert not PHOTO_SUFFIXES & VIDEO_SUFFIXES and not (PHOTO_SUFFIXES | VIDEO_SUFFIXES) & UNREAD_SUFFIXES


@pytest.mark.parametrize(("encoder", "suffix"), SUFFIXES)
def test_all_formats_are_listed_and_read_in_either_case(tmp_path: Path, encoder: str, suffix: str) -> None:
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        (tmp_path / name).write_bytes(encode(encoder))
        difference = read_photo(tmp_path / name).astype(int) - np.asarray(PHOTO)
        assert abs(difference).mean() < (9 if encoder == "GIF" else 7)
    assert len(list_photos(tmp_path)) == 2


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_content_decides_the_format(tmp_path: Path, encoder: str) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(encoder))
    assert read_photo(tmp_path / "a.jpg").shape == (96, 128, 3)
    assert decode_photo(encode(encoder), Path("a")).shape == (96, 128, 3)


@pytest.mark.parametrize("encoder", ["AVIF", "HEIF", "JPEG2000"])
@pytest.mark.parametrize(("mode", "white"), [("L", False), ("LA", True), ("RGBA", True)])
def test_grey_and_transparent_photos_become_rgb(encoder: str, mode: str, white: bool) -> None:
    image = PHOTO.convert(mode)
    if white:
        image.putalpha(0)
    pixels = decode_photo(encode(encoder, image), Path("a"))
    assert pixels.shape == (96, 128, 3) and (pixels.min() > 250) == white


@pytest.mark.parametrize("encoder", ["AVIF", "HEIF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_are_upright(encoder: str, orientation: int) -> None:
    """AVIF and HEIC store the rotation outside the EXIF data, or in both places."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # operations that make the file's pixels
    stored = PHOTO if undo is None else PHOTO.transpose(Image.Transpose(undo))
    pixels = decode_photo(encode(encoder, stored, exif=exif.tobytes(), quality=90), Path("a"))
    assert abs(pixels.astype(int) - np.asarray(PHOTO)).mean() < 6


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc", b"msf1"])
def test_all_brands_of_heic_are_read(brand: bytes) -> None:
    content = encode("HEIF")
    assert decode_photo(content[:8] + brand + content[12:], Path("a")).shape == (96, 128, 3)


def test_the_first_photo_of_a_heic_file_is_read() -> None:
    buffer = io.BytesIO()
    photos = pillow_heif.HeifFile()
    for image in (PHOTO, PHOTO.resize((64, 64))):
        photos.add_from_pillow(image)
    photos.save(buffer)
    assert decode_photo(buffer.getvalue(), Path("a")).shape == (96, 128, 3)


@pytest.mark.parametrize("encoder", ["AVIF", "HEIF", "JPEG2000"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(encoder: str, fraction: float) -> None:
    content = encode(encoder)
    with pytest.raises(PhotoError, match=r"truncated|not a photo|damaged"):
        decode_photo(content[: int(len(content) * fraction)], Path("a"))


@pytest.mark.parametrize(
    ("encoder", "most"), [("AVIF", 63), ("HEIF", 77), ("JPEG2000", 28), ("WEBP", 41), ("PNG", 100)]
)
def test_max_pixels_limits_the_size_and_less_of_formats_that_need_much_memory(encoder: str, most: int) -> None:
    with pytest.raises(PhotoError, match=f"too many pixels \\(96x128, the limit is {most}\\)"):
        decode_photo(encode(encoder), Path("a"), max_pixels=100)


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "renamed.jpg"])
def test_heic_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert heic_is_readable()
    (tmp_path / name).write_bytes(encode("HEIF"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoError, match=r"needs the package pillow-heif; .*pip install .*\[heic\]"):
        read_photo(tmp_path / name)
    assert not heic_is_readable()
    broken = tmp_path / "broken/pillow_heif.py"
    broken.parent.mkdir()
    broken.write_text("raise ImportError('libheif.so: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "pillow_heif")
    monkeypatch.syspath_prepend(broken.parent)
    assert not heic_is_readable()
    (tmp_path / "a.avif").write_bytes(encode_avif())
    assert read_photo(tmp_path / "a.avif").shape == (96, 128, 3)


def encode_avif() -> bytes:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "AVIF")
    return buffer.getvalue()


@pytest.mark.parametrize("brand", [b"qt  ", b"isom", b"mp42", b"crx ", b"\0\0\0\0"])
@pytest.mark.parametrize("size", [0, 1, 20, 2**32 - 1])
def test_other_files_with_boxes_are_no_photos(brand: bytes, size: int) -> None:
    content = struct.pack(">I", size) + b"ftyp" + brand + b"\0\0\0\0" + brand + b"\0" * 99
    with pytest.raises(PhotoError, match="not a photo in a known format"):
        decode_photo(content, Path("a.jpg"))


@pytest.mark.parametrize("suffix", [".dng", ".CR2", ".psd", ".jxl"])
def test_formats_that_are_not_read_are_refused_and_not_listed(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encode("TIFF"))  # as raw files, which hold a thumbnail
    assert list_photos(tmp_path) == []
    with pytest.raises(PhotoError, match="has a format that sfplus does not read; convert it"):
        read_photo(tmp_path / f"a{suffix}")
