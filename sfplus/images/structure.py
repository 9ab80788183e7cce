"""The structure of a photo file, checked before Pillow sees it.

Pillow and its libraries read all parts of a file that come before its pixels, some in quadratic time, and the pixels as
often as the file asks for: a file of 2 MB could take minutes, one of 1 MB gigabytes. Pillow explains damaged files.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL.JpegImagePlugin import MARKER as _JPEG_MARKERS

from sfplus.errors import PhotoError
from sfplus.images.tags import check_exif, check_tags
from sfplus.io.limits import check_limit, limit

_BLOCK = 1 << 20
_SCAN_BLOCK = 1 << 16
# In the pixels of a JPEG, 0xFF is followed by 0 or by a restart marker.
_IN_SCAN = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])(..)", re.DOTALL)
_NO_SEGMENT = ("", "", None)  # of a marker that Pillow does not know


class Structure(NamedTuple):
    """The structure of a photo, as far as it is read before Pillow opens the file.

    Attributes:
        size: width and height in pixels, of formats for which opening the file already takes memory for them.
        kind: Pillow's name of that format.
        buffered: the coefficients of a JPEG are kept until its last scan.
    """

    size: tuple[int, int] | None = None
    kind: str = ""
    buffered: bool = False


def check_structure(file: BinaryIO, where: Path) -> Structure:
    """Refuse a photo that would take too long or too much memory, whatever its size in pixels; rewind the file.

    Args:
        file: an open file at its beginning.
        where: the name of the photo in messages.

    Raises:
        PhotoError: If there are too many parts of a kind, or bytes beside the pixels.
    """
    start = file.read(16)
    structure = None
    for pattern, check in _CHECKS:
        if pattern.match(start):
            file.seek(0)
            structure = check(file, where)
    file.seek(0)
    return structure or Structure()


def _count(name: str, amount: int, where: Path) -> None:
    check_limit(name, amount, where, error=PhotoError, at_least=True)


def _check_jpeg(file: BinaryIO, where: Path) -> Structure:
    """Check the segments before the pixels, and the number of scans, each of which takes the time of all pixels."""
    file.seek(2)
    most_segments, most_bytes = limit("photo_metadata_items"), limit("photo_metadata_bytes")
    segments = size = padding = 0
    components, progressive, buffered = b"", False, False
    exif: list[bytes] = []
    while len(head := file.read(4)) == 4:
        marker = head[1]
        if head[0] != 0xFF or marker in (0, 0xFF) or _JPEG_MARKERS.get(0xFF00 | marker, _NO_SEGMENT)[2] is None:
            padding += 1  # Pillow reads it byte by byte
            _count("photo_metadata_items", padding // 100, where)
            file.seek(-3, io.SEEK_CUR)
            continue
        segments += 1
        length = max(0, int.from_bytes(head[2:], "big") - 2)
        size += length
        if segments > most_segments or size > most_bytes:  # each look at a limit takes as long as the rest of the loop
            _count("photo_metadata_items", segments, where)
            _count("photo_metadata_bytes", size, where)
        segment = file.read(length)
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif.append(segment[6:] if exif else segment)  # as Pillow joins them
        elif marker == 0xE2 and segment.startswith(b"MPF\0"):
            check_tags(io.BytesIO(segment[4:]), where)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC):
            components, progressive = segment[5:6], marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == 0xDA:
            buffered = progressive or segment[:1] != components  # otherwise one scan has all pixels
            if buffered:
                _check_scans(file, where)
            break
    check_exif(b"".join(exif), where)
    return Structure(buffered=buffered)


def _check_scans(file: BinaryIO, where: Path) -> None:
    """Count the scans of an image up to its end, behind which phones append videos and other images."""
    scans = segments = 1
    while block := file.read(_SCAN_BLOCK):
        if not (marker := _IN_SCAN.search(block)):
            if len(block) == _SCAN_BLOCK:
                file.seek(-3, io.SEEK_CUR)  # a marker and its length may be cut in two
            continue
        if marker[1] == b"\xd9":
            return
        segments += 1
        scans += marker[1] == b"\xda"
        _count("jpeg_scans", scans, where)
        _count("photo_metadata_items", segments, where)
        length = int.from_bytes(marker[2], "big")
        file.seek(marker.end() - 2 + max(2, length) - len(block), io.SEEK_CUR)


def _check_png(file: BinaryIO, where: Path) -> None:
    file.seek(8)
    chunks = items = size = 0
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":  # what follows is not of the image
            return
        chunks += 1
        _count("png_chunks", chunks, where)
        if kind == b"eXIf":
            _count("photo_metadata_bytes", length, where)
            check_exif(file.read(length), where)
            file.seek(4, io.SEEK_CUR)
        else:
            file.seek(length + 4, io.SEEK_CUR)
        if kind not in (b"IDAT", b"fcTL", b"fdAT"):
            items, size = items + 1, size + length
            _count("photo_metadata_items", items, where)
            _count("photo_metadata_bytes", size, where)


def _check_gif(file: BinaryIO, where: Path) -> None:
    """Count the blocks before the first image."""
    screen = file.read(13)
    if len(screen) < 13:
        return
    if screen[10] & 128:
        file.seek(3 << (screen[10] & 7) + 1, io.SEEK_CUR)
    blocks = 0
    while (start := file.read(1)) not in (b"", b",", b";"):
        blocks += 1
        _count("photo_metadata_items", blocks, where)
        if start != b"!":
            continue
        is_comment, size = file.read(1) == b"\xfe", 0
        while length := file.read(1).strip(b"\0"):
            size += 1 + length[0]
            if is_comment:  # Pillow joins them in quadratic time; XMP and profiles are a thousand blocks and more
                blocks += 1
                _count("photo_metadata_items", blocks, where)
            _count("photo_metadata_bytes", size, where)
            file.seek(length[0], io.SEEK_CUR)


def _check_tiff(file: BinaryIO, where: Path) -> None:
    check_tags(file, where)


def _check_pnm(file: BinaryIO, where: Path) -> None:
    """Limit the header, which is read byte by byte, and the comments of a plain file, each of which copies a block."""
    start = file.read(_BLOCK)
    header = re.match(rb"P\d(?:\s|#[^\r\n]*[\r\n])+(?:\d+(?:\s|#[^\r\n]*[\r\n])+){2}", start)
    size = header.end() if header else len(start)
    _count("photo_metadata_items", size // 100, where)
    if start[1] in b"123":
        comments = start.count(b"#")
        while block := file.read(_BLOCK):
            comments += block.count(b"#")
        _count("photo_metadata_items", comments, where)


def _check_webp(file: BinaryIO, where: Path) -> Structure:
    """Return the size of the canvas (RFC 9649), for which libwebp reserves memory when the file is opened."""
    _check_bytes(file, where)
    file.seek(12)
    chunk = file.read(18)
    kind, data = chunk[:4], chunk[8:]
    if len(data) < 10:
        return Structure()
    if kind == b"VP8X":
        return Structure((1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")), "WEBP")
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return Structure((1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)), "WEBP")
    if kind == b"VP8 ":
        bits = int.from_bytes(data[6:10], "little")
        return Structure((bits & 0x3FFF, bits >> 16 & 0x3FFF), "WEBP")
    return Structure()


def _check_bytes(file: BinaryIO, where: Path) -> None:
    check_limit("photo_bytes", file.seek(0, io.SEEK_END), where, error=PhotoError)
    file.seek(0)


def _check_avif(file: BinaryIO, where: Path) -> None:
    """Check the EXIF data of AVIF, which Pillow reads when it opens the file; that of HEIC is checked later."""
    _check_bytes(file, where)
    exif = b""
    with contextlib.suppress(Exception):  # not AVIF, damaged, or without its library: Pillow explains it
        from PIL import _avif  # some builds of Pillow are without it

        exif = _avif.AvifDecoder(file.read(), "auto", 1).get_info()[4]
    if exif:
        check_exif(exif, where)


def _check_jpeg2000(file: BinaryIO, where: Path) -> Structure:
    """Return the size that the codestream declares, which may be larger than that of the JP2 header before it."""
    if file.read(4) != b"\xff\x4f\xff\x51":
        for kind, position in _boxes(file, where, 0):
            if kind == b"jp2h":
                header = file.tell()
                for _ in _boxes(file, where, position):
                    pass
                file.seek(header)
            if kind == b"jp2c":
                file.seek(position + 4)
                break
        else:
            return Structure()
    siz = file.read(38)
    if len(siz) < 38:
        return Structure()
    right, bottom, left, top, width, height, tile_left, tile_top = (
        int.from_bytes(siz[i : i + 4], "big") for i in range(4, 36, 4)
    )
    tiles = -(-(right - tile_left) // max(1, width)) * -(-(bottom - tile_top) // max(1, height))
    check_limit("jpeg2000_tiles", tiles, where, error=PhotoError)
    file.seek(int.from_bytes(siz[:2], "big") - 38, io.SEEK_CUR)
    segments = 0
    while len(head := file.read(4)) == 4 and head[1] not in (0x90, 0xD9):
        segments += 1
        _count("photo_metadata_items", segments, where)
        file.seek(max(0, int.from_bytes(head[2:], "big") - 2), io.SEEK_CUR)
    return Structure((max(0, right - left), max(0, bottom - top)), "JPEG2000")


def _boxes(file: BinaryIO, where: Path, position: int) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each box from a position on, and the position of its contents (ISO/IEC 15444-1, annex I)."""
    count = 0
    while True:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        count += 1
        _count("photo_metadata_items", count, where)
        length, contents = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, contents = int.from_bytes(head[8:], "big"), 16
        yield head[4:8], position + contents
        if length < contents or length > 1 << 62:
            return
        position += length


_Check = Callable[[BinaryIO, Path], Structure | None]
_CHECKS: tuple[tuple[re.Pattern[bytes], _Check], ...] = tuple(
    (re.compile(pattern, re.DOTALL), check)
    for pattern, check in (
        (rb"\xff\xd8\xff", _check_jpeg),
        (rb"\x89PNG", _check_png),
        (rb"GIF8", _check_gif),
        (rb"II[*+]\0|MM\0[*+]", _check_tiff),
        (rb"P[0-7]\s", _check_pnm),
        (rb"RIFF....WEBP", _check_webp),
        (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", _check_jpeg2000),
        (rb"....ftyp", _check_avif),
    )
)
