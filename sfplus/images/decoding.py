"""Decode photos safely."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from sfplus.errors import PhotoError, SfplusError
from sfplus.images.decoding_memory import PLAIN, bytes_per_pixel, relative_memory
from sfplus.images.formats import UNREAD_SUFFIXES, VIDEO_SUFFIXES, find_formats, keep_pixels_of_png, open_image
from sfplus.images.pixels import Pixels, to_rgb
from sfplus.images.quiet import IgnoredWarnings
from sfplus.images.structure import check_structure
from sfplus.images.tags import check_exif
from sfplus.io.limits import limit
from sfplus.io.memory import return_freed_memory
from sfplus.io.prefetch import Postponed, Reserve

_LARGE = 20_000_000  # pixels; before a photo of so many is decoded, memory that is free is given back to the system
_DAMAGED_REMEDY = "get the file again or remove it"
_TRANSIENT = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


class PhotoHeader(NamedTuple):
    """The size of a photo that is not decoded yet.

    Attributes:
        height: as stored in the file, before it is turned upright, pixels.
        width: the same.
        bytes: the memory that it takes to decode the photo, its pixels included.
    """

    height: int
    width: int
    bytes: int


Inspect = Callable[[PhotoHeader], None]
"""A function that is called before a photo is decoded, which is not decoded if the function raises an exception."""


def reserve_memory(reserve: Reserve) -> Inspect:
    """Return a function that asks for the memory of a photo (see `prefetch_batches`), and postpones it if refused."""

    def inspect(header: PhotoHeader) -> None:
        if not reserve(header.bytes):
            raise Postponed

    return inspect


def read_photo(path: Path, max_pixels: int = 0, inspect: Inspect | None = None) -> Pixels:
    """Decode a photo.

    The EXIF rotation is applied; grey, 1-bit, palette and CMYK images become RGB; 16-bit grey is scaled by 1/257
    (16-bit colour keeps its upper byte, as Pillow reads it); transparent areas become white; the first frame of an
    animation is used.

    Photos are decoded on the CPU, also for a GPU. NVIDIA's decoder rounds in another way than libjpeg, so that the
    faces and features of a photo, which are kept by its content, would depend on the machine. Besides, torchvision's
    interface to it ignores the EXIF rotation on a GPU and is deprecated (torchvision 0.29).

    Decoding a photo of 100 megapixels takes 700 MB, its pixels of 300 MB included. Formats that need more (WebP, AVIF,
    HEIC, JPEG 2000, progressive JPEG without subsampling) have proportionally lower limits.

    Args:
        path: the file.
        max_pixels: photos with more pixels are refused before they are decoded; 0: the limit `photo_pixels`, 100
            megapixels (see `sfplus.io.limits`).
        inspect: is called with the size of the photo before it is decoded.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If the file is missing, unreadable, empty, truncated, too large, a video, not a photo or HEIC
            without the package that decodes it.
    """
    path = Path(path)
    check_suffix(path)
    return _explain_errors(lambda: _decode(_open_regular(path), path, max_pixels, inspect), path)


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


def decode_photo(data: bytes, where: Path, max_pixels: int = 0, inspect: Inspect | None = None) -> Pixels:
    """Decode a photo from bytes, like `read_photo`.

    Args:
        data: the contents of the file.
        where: the name of the photo in messages.
        max_pixels: as in `read_photo`, like `inspect`.
        inspect: is called before the photo is decoded.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If the data is empty, truncated, too large or not a photo.
    """
    if not data:
        raise PhotoError("is empty (0 bytes)", where=where, remedy=_DAMAGED_REMEDY)
    return _explain_errors(lambda: _decode(io.BytesIO(data), where, max_pixels, inspect), where)


def convert_image(image: Image.Image, where: Path, max_pixels: int = 0, inspect: Inspect | None = None) -> Pixels:
    """Convert a Pillow image of any mode, with the rules of `read_photo`, also for its EXIF rotation.

    Args:
        image: not modified.
        where: the name of the photo in messages.
        max_pixels: as in `read_photo`, like `inspect`.
        inspect: is called before the image is decoded.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If its file is truncated, or its size or mode is not that of a photo.
    """
    return _explain_errors(lambda: _convert(image, where, max_pixels, inspect), where)


def _explain_errors(decode: Callable[[], Pixels], path: Path) -> Pixels:
    try:
        with IgnoredWarnings():
            return decode()
    except SfplusError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("is not a photo in a known format", where=path, remedy="convert it to JPEG or PNG") from error
    except Image.DecompressionBombError as error:  # TIFF and GIF, above a limit of Pillow's
        raise PhotoError("has too many pixels for Pillow", where=path, remedy="make it smaller") from error
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


def _decode(file: BinaryIO, path: Path, max_pixels: int, inspect: Inspect | None) -> Pixels:
    with file:
        formats = find_formats(file, path)
        structure = check_structure(file, path)
        if structure.size:
            _check_size(*structure.size, relative_memory(structure.kind), path, max_pixels, inspect)
            inspect = None  # is not called twice
        try:
            with open_image(file, formats) as image:
                return _convert(image, path, max_pixels, inspect, structure.buffered)
        except (UnidentifiedImageError, SyntaxError, ValueError):
            pixels_only = keep_pixels_of_png(file)
            if not pixels_only:
                raise
        with open_image(io.BytesIO(pixels_only), formats) as image:
            return _convert(image, path, max_pixels, inspect, structure.buffered)


def _convert(
    image: Image.Image, path: Path, max_pixels: int, inspect: Inspect | None, buffered: bool = False
) -> Pixels:
    memory = relative_memory(image.format or "", bytes_per_pixel(image, buffered))
    _check_size(*image.size, memory, path, max_pixels, inspect)
    if image.width * image.height >= _LARGE:
        return_freed_memory()
    image.load()
    return to_rgb(image, _orientation(image, path), path)


def _check_size(width: int, height: int, memory: float, path: Path, max_pixels: int, inspect: Inspect | None) -> None:
    most = int((max_pixels or limit("photo_pixels")) / memory)
    if width * height > most:
        reason = f"has too many pixels ({height}x{width}, the limit is {most:,})"
        remedy = "make it smaller"
        if not max_pixels:
            remedy += f", or set SFPLUS_MAX_PHOTO_PIXELS={math.ceil(width * height * memory)}"
        raise PhotoError(reason, where=path, remedy=remedy)
    if width < 1 or height < 1:
        raise PhotoError(f"has no pixels ({height}x{width})", where=path, remedy=_DAMAGED_REMEDY)
    if inspect:
        inspect(PhotoHeader(height, width, int(width * height * memory * PLAIN)))


def _orientation(image: Image.Image, path: Path) -> object:
    """Return the EXIF orientation of a loaded image."""
    exif = image.info.get("exif")
    if exif is None and isinstance(text := image.info.get("Raw profile type exif"), str):  # of ImageMagick, in PNG
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))  # as Pillow does
    if isinstance(exif, bytes):
        check_exif(exif, path)
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF has no usable orientation
        return 1
