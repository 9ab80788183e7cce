"""Tags of TIFF and EXIF, which are added up before Pillow reads them: many tags may name the same bytes."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

from sfplus.errors import PhotoError
from sfplus.io.limits import check_limit

# Bytes of a value of each type (TIFF 6.0, BigTIFF); types without a size are skipped by Pillow.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_DIRECTORIES = (34665, 34853, 40965)  # tags that name the position of further tags: EXIF, GPS, interoperability
_TILES = (273, 324)  # tags with the position of each strip or tile


def check_exif(data: bytes, where: Path) -> None:
    """Refuse EXIF data whose tags would use much memory.

    Args:
        data: a TIFF header and tags, usually after a prefix.
        where: the name of the photo in messages.

    Raises:
        PhotoError: If the values of the tags have too many bytes.
    """
    prefixes = 0
    while data.startswith(b"Exif\0\0", 6 * prefixes):
        prefixes += 1
        check_limit("photo_metadata_items", prefixes, where, error=PhotoError, at_least=True)
    check_tags(io.BytesIO(data[6 * prefixes :]), where)


def check_tags(file: BinaryIO, where: Path) -> None:
    """Refuse TIFF whose tags would use much memory or name too many tiles; the file is not rewound.

    Args:
        file: TIFF, or EXIF data without its prefix.
        where: the name of the photo in messages.

    Raises:
        PhotoError: If there are too many tags, bytes of values, or tiles.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(16)
    order, big = "<" if start[:2] == b"II" else ">", 43 in start[2:4]
    count_layout, layout = struct.Struct(order + "HQ"[big]), struct.Struct(order + ("HHQQ" if big else "HHLL"))
    inline = 8 if big else 4  # bytes of a value that is stored in its tag
    if len(start) < 2 * inline:
        return
    pending = list(struct.unpack_from(order + "LQ"[big], start, inline))
    visited: set[int] = set()
    tags = size = 0
    while pending:
        position = pending.pop()
        if position in visited or position + count_layout.size > end:
            continue
        visited.add(position)
        file.seek(position)
        (count,) = count_layout.unpack(file.read(count_layout.size))
        count = min(count, (end - file.tell()) // layout.size)  # Pillow reads no further
        tags += count
        check_limit("photo_tags", tags, where, error=PhotoError)
        entries = file.read(count * layout.size)
        for tag, kind, number, value in layout.iter_unpack(entries[: len(entries) // layout.size * layout.size]):
            length = number * _SIZES.get(kind, 0)
            if length > inline and value + length > end:
                break  # Pillow reads no further
            size += length
            check_limit("photo_metadata_bytes", size, where, error=PhotoError, at_least=True)
            if tag in _TILES:
                check_limit("photo_tiles", number, where, error=PhotoError)
            elif tag in _DIRECTORIES:
                pending.append(value)
