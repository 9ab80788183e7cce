"""Decode photos safely."""

from __future__ import annotations

import errno
import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sfplus.errors import PhotoError, SfplusError
from sfplus.images.formats import UNREAD_SUFFIXES, VIDEO_SUFFIXES, find_formats, keep_pixels_of_png

Pixels = npt.NDArray[np.uint8]

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


def read_photo(path: Path, max_pixels: int = 100_000_000) -> Pixels:
    """Decode a photo.

    The EXIF rotation is applied; grey, 1-bit, palette and CMYK images become RGB; 16-bit grey is scaled by 1/257
    (16-bit colour keeps its upper byte, as Pillow reads it); transparent areas become white; the first frame of an
    animation is used.

    Photos are decoded on the CPU, also for a GPU. NVIDIA's decoder rounds in another way than libjpeg, so that the
    faces and features of a photo, which are kept by its content, would depend on the machine. Besides, torchvision's
    interface to it ignores the EXIF rotation on a GPU and is deprecated (torchvision 0.29).

    Args:
        path: the file.
        max_pixels: photos with more pixels are refused before they are decoded.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If the file is missing, unreadable, empty, truncated, too large, a video, not a photo or HEIC
            without the package that decodes it.
    """
    path = Path(path)
    check_suffix(path)
    return _explain_errors(lambda: _decode(_open_regular(path), path, max_pixels), path, max_pixels)


def check_suffix(path: Path) -> None:
    """Refuse the file extensions of videos and of raw files of cameras.

    Args:
        path: the name of the photo, which need not exist.

    Raises:
        PhotoError: If it has such an extension.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise PhotoError("is a video", where=path, remedy="extract its frames as photos first")
    if path.suffix.lower() in UNREAD_SUFFIXES:  # Pillow would read the thumbnail of a raw file
        raise PhotoError("has a format that sfplus does not read", where=path, remedy="convert it to JPEG or PNG")


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
    with file:
        formats = find_formats(file, path)
        try:
            with Image.open(file, formats=formats) as image:
                return _convert(image, path, max_pixels)
        except (UnidentifiedImageError, SyntaxError, ValueError):
            pixels_only = keep_pixels_of_png(file)
            if not pixels_only:
                raise
        with Image.open(io.BytesIO(pixels_only), formats=formats) as image:
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
