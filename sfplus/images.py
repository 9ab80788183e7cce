"""Image files: list the photos of a folder, decode a photo safely, encode an image."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from sfplus.errors import DatasetError, PhotoError, SfplusError, UsageError

Pixels = npt.NDArray[np.uint8]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
CACHE, CONTACT_SHEET = ".sfplus", "contact-sheet.png"  # in an output folder
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"})
# Only these decoders may run: Pillow also has formats that start other programs (EPS). Importing them registers them.
_FORMATS = [
    decoder.format
    for decoder in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
        GifImagePlugin.GifImageFile,
        PpmImagePlugin.PpmImageFile,
    )
]
_ENCODERS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_DAMAGED_REMEDY = "get the file again or remove it"
# EXIF orientation -> the operation that undoes it (EXIF 2.3, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRANSIENT = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


def list_photos(root: Path) -> list[str]:
    """List all photos below a folder, at any depth.

    Links are followed, also out of the folder, except for a link back to a folder that contains it. A broken link with
    the suffix of a photo is listed, so that reading it records a failure. Names with a leading dot are skipped, and so
    is the contact sheet of `sfplus align --report` next to the crops.

    Args:
        root: the folder.

    Returns:
        POSIX-style paths relative to `root`, sorted; undecodable bytes are kept as surrogate escapes.

    Raises:
        DatasetError: If `root` or a folder below it is missing, is not a folder or cannot be listed.
    """
    is_output = (root / CACHE).is_dir()
    return sorted(name for name in _walk(root) if not (is_output and name == CONTACT_SHEET))


def _walk(root: Path) -> Iterator[str]:
    suffixes = tuple(PHOTO_SUFFIXES)
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, ancestors = pending.pop()
        folder = os.path.join(os.fspath(root), prefix)  # noqa: PTH118 (pathlib is slow for 500,000 files)
        try:
            status = os.stat(folder)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    if _is_folder(entry):
                        pending.append((f"{prefix}{name}/", ancestors | {identity}))
                    elif name.lower().endswith(suffixes):
                        yield prefix + name
        except OSError as error:
            raise DatasetError(
                f"cannot be listed: {error.strerror}", where=folder, remedy="give a folder of photos that can be read"
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def read_photo(path: Path, max_pixels: int = 100_000_000) -> Pixels:
    """Decode a photo.

    The EXIF rotation is applied; grey, 1-bit, palette and CMYK images become RGB; 16-bit grey is scaled by 1/257
    (16-bit colour keeps its upper byte, as Pillow reads it); transparent areas become white; the first frame of an
    animation is used.

    Args:
        path: the file.
        max_pixels: photos with more pixels are refused before they are decoded.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If the file is missing, unreadable, empty, truncated, too large, a video or not a photo.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise PhotoError("is a video", where=path, remedy="extract its frames as photos first")
    return _explain_errors(lambda: _decode(_open_regular(path), path, max_pixels), path, max_pixels)


def decode_photo(data: bytes, where: Path, max_pixels: int = 100_000_000) -> Pixels:
    """Decode a photo from bytes, like `read_photo`.

    Args:
        data: the contents of the file.
        where: the name of the photo in messages.
        max_pixels: photos with more pixels are refused before they are decoded.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If the data is empty, truncated, too large or not a photo.
    """
    if not data:
        raise PhotoError("is empty (0 bytes)", where=where, remedy=_DAMAGED_REMEDY)
    return _explain_errors(lambda: _decode(io.BytesIO(data), where, max_pixels), where, max_pixels)


def convert_image(image: Image.Image, where: Path, max_pixels: int = 100_000_000) -> Pixels:
    """Convert a Pillow image of any mode, with the rules of `read_photo`, also for its EXIF rotation.

    Args:
        image: not modified.
        where: the name of the photo in messages.
        max_pixels: images with more pixels are refused.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If its file is truncated, or its size or mode is not that of a photo.
    """
    return _explain_errors(lambda: _convert(image, where, max_pixels), where, max_pixels)


def _explain_errors(decode: Callable[[], Pixels], path: Path, max_pixels: int) -> Pixels:
    try:
        return decode()
    except SfplusError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("is not a photo in a known format", where=path, remedy="convert it to JPEG or PNG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, f"more than {max_pixels:,}") from error
    except MemoryError as error:
        raise PhotoError("does not fit into memory", where=path, remedy="make it smaller") from error
    except Exception as error:  # Pillow's decoders raise a dozen different classes on damaged files
        reason = f"cannot be decoded, it is damaged or truncated ({error})"
        raise PhotoError(reason, where=path, remedy=_DAMAGED_REMEDY) from error


def is_transient(error: SfplusError) -> bool:
    """Return True if reading a photo failed because of the machine, so that another attempt may succeed."""
    cause = error.__cause__
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _TRANSIENT)


def _open_regular(path: Path) -> io.BufferedReader:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            return path.open("rb")
    except OSError as error:
        if isinstance(error, PermissionError):
            remedy = "change its permissions"
        else:
            remedy = "check the path; a link may point to a missing file"
        raise PhotoError(f"cannot be read: {error.strerror}", where=path, remedy=remedy) from error
    except ValueError as error:  # a null byte in the name
        raise PhotoError(f"cannot be read: {error}", where=path, remedy="check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise PhotoError("is a folder", where=path, remedy="choose a photo")
    if not stat.S_ISREG(status.st_mode):
        raise PhotoError("is not a regular file", where=path, remedy="choose a photo")
    raise PhotoError("is empty (0 bytes)", where=path, remedy=_DAMAGED_REMEDY)


def _too_large(path: Path, amount: str) -> PhotoError:
    return PhotoError(f"has too many pixels ({amount})", where=path, remedy="make it smaller")


def _decode(file: BinaryIO, path: Path, max_pixels: int) -> Pixels:
    with file, Image.open(file, formats=_FORMATS) as image:
        return _convert(image, path, max_pixels)


def _convert(image: Image.Image, path: Path, max_pixels: int) -> Pixels:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(path, f"{height}x{width}, the limit is {max_pixels:,}")
    if width < 1 or height < 1:
        raise PhotoError(f"has no pixels ({height}x{width})", where=path, remedy=_DAMAGED_REMEDY)
    image.load()
    upright = _upright(image)
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return np.array(upright)
    if upright.mode.startswith("I"):
        return _from_16_bit(np.asarray(upright), path)
    if upright.mode == "F":
        raise PhotoError("has floating-point samples", where=path, remedy="convert it to 8 or 16 bits")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright)
    return np.array(upright.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF has no usable orientation
        orientation = 1
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _from_16_bit(samples: npt.NDArray[np.generic], path: Path) -> Pixels:
    values = samples.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PhotoError("has 32-bit samples", where=path, remedy="convert it to 8 or 16 bits")
    grey = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def encode_image(rgb: Pixels, suffix: str = ".jpg", quality: int = 75) -> bytes:
    """Encode an image as JPEG or PNG.

    Args:
        rgb: uint8 (H, W, 3).
        suffix: `.jpg`, `.jpeg` or `.png`.
        quality: of JPEG, 1 to 95; 75 is MATLAB's default, with which the SphereFace crops were written.

    Returns:
        The bytes of the file; equal for the same image and library versions.

    Raises:
        UsageError: If the array is not an image, the suffix is unknown or the quality is out of range.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise UsageError(f"expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}", where="image")
    encoder = _ENCODERS.get(suffix.lower())
    if encoder is None:
        raise UsageError(f"cannot write '{suffix}'", where="suffix", remedy=f"use one of {', '.join(_ENCODERS)}")
    if not 1 <= quality <= 95:
        raise UsageError(f"expected 1 to 95, got {quality}", where="quality")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, encoder, **({"quality": quality} if encoder == "JPEG" else {}))
    return buffer.getvalue()
