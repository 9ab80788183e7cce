"""The formats of photos: file extensions, and the decoder for the first bytes of a file."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import PIL
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from sfplus.errors import PhotoError
from sfplus.io.extras import install_command

HEIC_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
PHOTO_SUFFIXES = HEIC_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
    ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".m2ts", ".ogv",
})  # fmt: skip
UNREAD_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf",
    ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",  # raw files of cameras
    ".exr", ".jxl", ".jxr", ".livp", ".psb", ".psd", ".tga", ".wdp", ".xcf",
})  # fmt: skip
"""Extensions of photos in formats that sfplus does not read."""

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
        Jpeg2KImagePlugin.Jpeg2KImageFile,
    )
]
_AVIF = AvifImagePlugin.AvifImageFile.format
_PNG_START = b"\x89PNG\r\n\x1a\n"
_TIFF_STARTS = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"miaf"}


def heic_is_readable() -> bool:
    """Return whether the package is installed that decodes HEIC, the format of iPhones."""
    try:
        import pillow_heif  # noqa: F401 (an optional extra, which may be installed and broken)
    except ImportError:
        return False
    return True


def needs_missing_package(names: Iterable[str]) -> list[str]:
    """Return the photos that cannot be read because the package that decodes their format is not installed."""
    suffixes = tuple(HEIC_SUFFIXES)
    heic = [name for name in names if name.lower().endswith(suffixes)]
    return [] if not heic or heic_is_readable() else heic


def find_formats(file: BinaryIO, path: Path) -> list[str]:
    """Return the names of the Pillow formats that a file may have, from its first bytes, and rewind it.

    Args:
        file: An open file at its beginning.
        path: The name of the photo in messages.

    Raises:
        PhotoError: If it is HEIC and the package that decodes HEIC is missing.
    """
    start = file.read(64)
    file.seek(0)
    if start[4:8] != b"ftyp":
        if start[:4] in _TIFF_STARTS:
            _silence_libtiff()
        return _FORMATS
    # ISO/IEC 23008-12: the size of the box, `ftyp`, the major brand, its version, the compatible brands
    box = start[: int.from_bytes(start[:4], "big")]
    brands = {box[8:12], *(box[i : i + 4] for i in range(16, len(box), 4))}
    if brands & _AVIF_BRANDS or not brands & _HEIF_BRANDS:
        return [_AVIF]
    return [_register_heif(path)]


def _register_heif(path: Path) -> str:
    try:
        import pillow_heif  # an optional extra
    except ImportError as error:
        reason = "is a HEIC photo, which needs the package pillow-heif"
        raise PhotoError(reason, where=path, remedy=install_command("heic")) from error
    pillow_heif.register_heif_opener()
    return "HEIF"


def open_image(file: BinaryIO, formats: Sequence[str]) -> Image.Image:
    """Open an image as `PIL.Image.open` does, whatever its size in pixels: the limit is that of sfplus.

    Args:
        file: An open file.
        formats: The names of the formats that it may have.

    Raises:
        UnidentifiedImageError: If it has none of them.
    """
    file.seek(0)
    start = file.read(16)
    for name in formats:
        create, accept = Image.OPEN[name]
        if accept is None or accept(start) is True:
            file.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # as Pillow: not this format
                return create(file, "")
    raise UnidentifiedImageError("no known format")


def keep_pixels_of_png(file: BinaryIO) -> bytes:
    """Return a PNG without the chunks that do not decide its pixels, which browsers ignore when they are damaged.

    Args:
        file: An open file; one that is no PNG gives b"".
    """
    file.seek(0)
    if file.read(8) != _PNG_START:
        return b""
    kept = io.BytesIO(_PNG_START)
    kept.seek(0, io.SEEK_END)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big") + 4, head[4:]  # with the checksum
        if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):  # ISO/IEC 15948, 5.4: a lower-case letter is ancillary
            kept.write(head)
            kept.write(file.read(length))
        else:
            file.seek(length, io.SEEK_CUR)
    return kept.getvalue()


@functools.cache
def _silence_libtiff() -> None:
    """Stop libtiff from printing to the terminal what Pillow raises as an exception anyway; wheels bundle libtiff."""
    package = Path(PIL.__file__).parent
    for library in (*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")):
        with contextlib.suppress(OSError, AttributeError):
            libtiff = ctypes.CDLL(str(library))
            libtiff.TIFFSetErrorHandler(None)
            libtiff.TIFFSetWarningHandler(None)
