"""Limits on what is read from files of others, so that a small file cannot use all memory or run for hours.

Each limit is far above what real files need. An environment variable changes it: `SFPLUS_MAX_PHOTO_PIXELS=200000000`
lets photos of 200 megapixels be read.
"""

from __future__ import annotations

import os
from types import MappingProxyType

from sfplus.errors import SfplusError, UsageError

# name -> (largest value, its unit, where it applies)
LIMITS = MappingProxyType(
    {
        "photo_pixels": (100_000_000, "pixels", "a photo; fewer of a format that takes more memory than JPEG"),
        "photo_bytes": (256 << 20, "bytes", "a photo in a format that is read as one piece: AVIF, HEIC, WebP"),
        "photo_metadata_bytes": (32 << 20, "bytes of metadata", "a photo"),
        "photo_metadata_items": (1000, "items of metadata", "a photo: segments, chunks, blocks, boxes, comments"),
        "photo_tags": (65_535, "tags", "a photo in TIFF or with EXIF data"),
        "photo_tiles": (100_000, "tiles", "a photo in TIFF"),
        "jpeg_scans": (100, "scans", "a progressive JPEG"),
        "jpeg2000_tiles": (4096, "tiles", "a photo in JPEG 2000"),
        "png_chunks": (200_000, "chunks", "a PNG"),
        "json_bytes": (256 << 20, "bytes", "a JSON file"),
    }
)


def limit(name: str) -> int:
    """Return a limit: the value of the environment variable `SFPLUS_MAX_NAME` if it is set, else its default.

    Args:
        name: a key of `LIMITS`.

    Raises:
        UsageError: If the environment variable is not a positive integer.
    """
    variable = _variable(name)
    text = os.environ.get(variable, "")
    if not text:
        return LIMITS[name][0]
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise UsageError(f"'{text[:40]}' is not a positive integer", where=variable, remedy="correct or unset it")
    return int(text)


def check_limit(
    name: str,
    amount: int,
    where: str | os.PathLike[str],
    *,
    error: type[SfplusError] = SfplusError,
    at_least: bool = False,
) -> None:
    """Refuse an amount above a limit.

    Args:
        name: a key of `LIMITS`.
        amount: the size of what would be read, in the unit of the limit.
        where: the file concerned.
        error: the class of the exception.
        at_least: the amount is not known, it was not counted any further.

    Raises:
        SfplusError: If the amount is above the limit; the message names the environment variable that raises it.
    """
    if amount > (most := limit(name)):
        if at_least:
            reason = f"has more {LIMITS[name][1]} than the limit of {most:,}"
            remedy = f"check the file; if it is right, set {_variable(name)} to a higher number"
            raise error(reason, where=where, remedy=remedy)
        raise error(
            f"has {amount:,} {LIMITS[name][1]}, more than the limit of {most:,}",
            where=where,
            remedy=f"check the file; if it is right, set {_variable(name)}={amount}",
        )


def _variable(name: str) -> str:
    return f"SFPLUS_MAX_{name.upper()}"
