"""Decoding photos of all formats, including damaged and hostile files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data, metrics

from sfplus.errors import PhotoError
from sfplus.images import decode_photo, encode_image, list_photos, read_photo

ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0


def colours() -> np.ndarray:
    """Return 5x8 pixels, all different, so that rotations are visible."""
    ramp = np.arange(8 * 5, dtype=np.uint8).reshape(5, 8)
    return np.stack([ramp * 6, 255 - ramp * 3, ramp], 2)


def astronaut(suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()).resize((128, 96)).save(buffer, suffix, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that declares a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif", "webp"])
def test_lossless_formats_keep_all_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colours()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    photo = read_photo(path)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous and photo.flags.writeable
    assert np.array_equal(photo, colours())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}, {"quality": 30}])
def test_jpeg_stays_close_to_the_original(tmp_path: Path, options: dict[str, object]) -> None:
    (tmp_path / "a.jpg").write_bytes(astronaut("JPEG", **options))
    original = np.asarray(Image.fromarray(data.astronaut()).resize((128, 96)))
    assert metrics.peak_signal_noise_ratio(original, read_photo(tmp_path / "a.jpg")) > 24


def test_the_suffix_does_not_decide_the_format(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(encode_image(colours(), ".png"))
    assert np.array_equal(read_photo(tmp_path / "really.jpg"), colours())


GREY = np.array([[0, 1, 100], [200, 254, 255]], np.uint8)
RED_GREEN = Image.fromarray(np.array([[0, 1, 1], [1, 0, 0]], np.uint8), "P")
RED_GREEN.putpalette([255, 0, 0, 0, 255, 0])


def with_alpha(mode: str) -> Image.Image:
    """Return opaque, half transparent and fully transparent black."""
    black = Image.new(mode, (3, 1))
    black.putalpha(Image.fromarray(np.array([[255, 128, 0]], np.uint8)))
    return black


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("a.png", Image.fromarray(GREY), GREY),
        ("a.jpg", Image.new("L", (3, 2), 77), np.full((2, 3), 77)),
        ("a.pgm", Image.fromarray(GREY), GREY),
        ("a.png", Image.fromarray(GREY > 150), np.where(GREY > 150, 255, 0)),
        ("a.tif", Image.fromarray(GREY > 150), np.where(GREY > 150, 255, 0)),
        ("a.png", Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        ("a.tif", Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        ("a.pgm", Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        ("a.tif", Image.fromarray(GREY.astype(np.int32) * 257), GREY),
        ("a.png", Image.fromarray(np.array([[128, 129, 65535 - 129, 65535 - 128]], np.uint16)), [[0, 1, 254, 255]]),
        ("a.png", with_alpha("L"), [[0, 127, 255]]),
        ("a.png", with_alpha("RGB"), [[0, 127, 255]]),
        ("a.tif", with_alpha("RGB"), [[0, 127, 255]]),
        ("a.tif", Image.new("CMYK", (3, 2), (0, 0, 0, 55)), np.full((2, 3), 200)),
        ("a.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 55)), np.full((8, 8), 200)),
    ],
)
def test_all_pixel_formats_become_rgb(tmp_path: Path, name: str, image: Image.Image, expected: object) -> None:
    image.save(tmp_path / name)
    assert np.array_equal(read_photo(tmp_path / name), np.repeat(np.asarray(expected)[:, :, None], 3, 2))


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp"])
def test_palette_images_become_rgb(tmp_path: Path, name: str) -> None:
    RED_GREEN.save(tmp_path / name)
    red, green = [255, 0, 0], [0, 255, 0]
    assert read_photo(tmp_path / name).tolist() == [[red, green, green], [green, red, red]]


def test_transparent_colours_become_white(tmp_path: Path) -> None:
    RED_GREEN.save(tmp_path / "palette.png", transparency=0)
    assert read_photo(tmp_path / "palette.png")[0].tolist() == [[255] * 3, [0, 255, 0], [0, 255, 0]]
    Image.fromarray(colours()).save(tmp_path / "rgb.png", transparency=tuple(colours()[0, 0].tolist()))
    expected = colours()
    expected[0, 0] = 255
    assert np.array_equal(read_photo(tmp_path / "rgb.png"), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff", "mpo"])
def test_the_first_frame_of_several_is_used(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    difference = read_photo(tmp_path / f"a.{suffix}").astype(int) - np.asarray(frames[0])
    assert abs(difference).max() <= (2 if suffix == "mpo" else 0)  # an MPO contains JPEGs


# EXIF standard: the corner of the scene that row 0 and column 0 of the file show.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: scene[:, ::-1].swapaxes(0, 1),
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: scene[::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](colours()))
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    assert np.array_equal(read_photo(tmp_path / f"a.{suffix}"), colours())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_photo(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(astronaut("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01"))
    assert read_photo(tmp_path / "a.jpg").shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "is empty"),
        ("a.jpg", b"\xff", "not a photo"),
        ("a.jpg", b"hello, I am a text " * 50, "not a photo"),
        ("a.png", b"<html><body>404 Not Found</body></html>", "not a photo"),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a photo"),
        ("a.mp4", b"anything", "is a video"),
        ("a.MOV", b"anything", "is a video"),
        ("a.png", png_header(60_000, 60_000), "too many pixels"),
        ("a.png", png_header(2**31 - 1, 2**31 - 1), "too many pixels"),
        ("a.png", png_header(12_000, 12_000), "too many pixels"),
        ("a.png", png_header(500, 500), "truncated|damaged"),
        ("a.png", png_header(0, 5), "not a photo|damaged|no pixels"),
        ("a.ppm", b"P6 4 4 255\nshort", "truncated|damaged"),
        ("a.ppm", b"P6 999999999 4 255\n", "too many pixels"),
    ],
)
def test_invalid_files_are_refused_with_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(PhotoError, match=reason) as refusal:
        warnings.simplefilter("ignore")
        read_photo(path)
    assert refusal.value.where == str(path)
    assert refusal.value.remedy


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, fraction: float) -> None:
    content = astronaut(kind)
    (tmp_path / "a.jpg").write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(PhotoError, match=r"truncated|not a photo"):
        read_photo(tmp_path / "a.jpg")


def test_a_truncated_progressive_jpeg_is_refused(tmp_path: Path) -> None:
    content = astronaut("JPEG", progressive=True)
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(PhotoError, match="truncated"):
        read_photo(tmp_path / "a.jpg")


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"a\0b", checksum=1),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 3_000_000)),  # Pillow refuses more than a million characters
        chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"iCCP", b"abc\0\0not compressed"),
        chunk(b"pHYs", b"short"),
        chunk(b"tIME", b""),
    ],
)
@pytest.mark.parametrize("end", [False, True])
def test_damaged_notes_in_a_png_do_not_lose_the_photo(tmp_path: Path, extra: bytes, end: bool) -> None:
    """Browsers show these photos."""
    content = encode_image(colours(), ".png")
    place = len(content) - 12 if end else 33  # before the last chunk, or behind the header
    (tmp_path / "a.png").write_bytes(content[:place] + extra + content[place:])
    assert np.array_equal(read_photo(tmp_path / "a.png"), colours())


@pytest.mark.parametrize("bit", [0, 3])
def test_a_png_with_damaged_pixels_is_refused(bit: int) -> None:
    content = bytearray(encode_image(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), ".png"))
    content[len(content) // 2] ^= 1 << bit
    with pytest.raises(PhotoError, match=r"damaged|not a photo"):
        decode_photo(bytes(content), Path("a"))


KINDS = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("AVIF", {}),
    ("JPEG2000", {}), ("TIFF", {}),
    *(("TIFF", {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # those of Python, which the command line ignores
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_libraries_print_nothing_about_damaged_files(
    kind: str, options: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    content, rng = astronaut(kind, **options), np.random.default_rng(0)
    for _ in range(12):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(8, len(damaged), 20)] = rng.integers(0, 256, 20)
        with contextlib.suppress(PhotoError):
            decode_photo(damaged.tobytes(), Path("a"), max_pixels=1_000_000)
    assert capfd.readouterr() == ("", "")


def test_paths_that_are_not_regular_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("gone.jpg", "No such file"),
        ("folder.jpg", "is a folder"),
        ("pipe.jpg", "not a regular file"),
        ("null\0.jpg", "null"),
    ):
        with pytest.raises(PhotoError, match=reason):
            read_photo(tmp_path / name)


@pytest.mark.skipif(ROOT, reason="root can read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(astronaut("JPEG"))
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(PhotoError, match=r"Permission denied.*change its permissions"):
        read_photo(tmp_path / "a.jpg")


def test_a_permission_error_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(astronaut("JPEG"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PhotoError, match=r"Permission denied.*change its permissions"):
        read_photo(tmp_path / "a.jpg")


def test_max_pixels_limits_the_size(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(colours(), ".png"))
    assert read_photo(tmp_path / "a.png", max_pixels=40).shape == (5, 8, 3)
    with pytest.raises(PhotoError, match="5x8, the limit is 39"):
        read_photo(tmp_path / "a.png", max_pixels=39)


@pytest.mark.parametrize(
    "samples", [np.array([[70_000]], np.int32), np.array([[-1]], np.int32), np.ones((2, 2), np.float32)]
)
def test_samples_without_an_8_bit_range_are_refused(tmp_path: Path, samples: np.ndarray) -> None:
    Image.fromarray(samples).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match=r"32-bit|floating-point"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.slow
def test_real_photos_are_decoded_as_by_pillow(shared_data: Path) -> None:
    root = shared_data / "lfw" / "photos"
    names = list_photos(root)
    assert len(names) == 7701
    for name in names[::500]:
        with Image.open(root / name) as image:
            assert np.array_equal(read_photo(root / name), np.asarray(image.convert("RGB")))
