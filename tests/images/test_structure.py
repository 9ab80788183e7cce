"""Small files that would take minutes or gigabytes are refused at once, whatever their format."""

from __future__ import annotations

import io
import random
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sfplus.errors import PhotoError
from sfplus.images import decode_photo

SECONDS = 2  # of the processor; each took longer, most of them minutes
Make = Callable[[], bytes]


def encode(kind: str, size: tuple[int, int] = (8, 8), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind, **options)
    return buffer.getvalue()


def insert(content: bytes, position: int, part: bytes) -> bytes:
    return content[:position] + part + content[position:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tags(count: int, length: int, data: bytes = b"", kind: int = 7) -> bytes:
    """Return a TIFF header with tags that all name the same bytes."""
    entries = b"".join(struct.pack("<HHLL", 50_000 + n, kind, length, 8 + 2 + 12 * count + 4) for n in range(count))
    return b"II*\0" + struct.pack("<LH", 8, count) + entries + b"\0\0\0\0" + data


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    packed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + packed + b"\0\0\0\0" + data


def big_tiff() -> bytes:
    """Return a BigTIFF with a million tags."""
    count = 1_000_000
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, count) + struct.pack("<HHQQ", 50_000, 3, 1, 1) * count


def progressive_jpeg() -> bytes:
    """Return a progressive JPEG of 16 megapixels whose last scan is repeated."""
    content = encode("JPEG", (4000, 4000), progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * 3000 + content[-2:]


def scans_of_one_channel() -> bytes:
    """Return a baseline JPEG in which the scan of the first of three channels is repeated."""
    content = encode("JPEG", (64, 64))
    start = content.index(b"\xff\xda")
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + content[start + 14 : -2]
    return content[:start] + scan * 5000 + b"\xff\xd9"


def jpeg2000(width: int, height: int, tile: int, before: bytes = b"") -> bytes:
    siz = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, tile, tile, 0, 0, 3) + b"\x07\x01\x01" * 3
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz + before + b"\xff\x90" + bytes(20)


def jp2_with_a_small_header() -> bytes:
    """Return a JP2 whose header says 16x16 and whose code says 60,000x60,000."""
    header = struct.pack(">I4sIIHBBBB", 22, b"ihdr", 16, 16, 3, 7, 7, 0, 0)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 20, b"ftyp") + b"jp2 \0\0\0\0jp2 "
    boxes += struct.pack(">I4s", 8 + len(header), b"jp2h") + header
    return boxes + struct.pack(">I4s", 0, b"jp2c") + jpeg2000(60_000, 60_000, 60_000)


def jp2_boxes() -> bytes:
    return b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8, b"free") * 1_000_000


def webp(width: int, height: int, kind: str) -> bytes:
    """Return a WebP of a few bytes that declares a size."""
    if kind == "VP8L":
        body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(9)
    elif kind == "VP8X":
        body = bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    else:
        body = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(9)
    part = kind.encode().ljust(4) + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(part)) + b"WEBP" + part


GIF, JPEG, PNG = encode("GIF"), encode("JPEG"), encode("PNG")
GIF_BODY = 13 + (3 << (GIF[10] & 7) + 1) * (GIF[10] >> 7)  # where the blocks begin
EXIF_BOMB = tags(5000, 60_000, bytes(60_000))
HOSTILE: dict[str, tuple[Make, str]] = {
    "a GIF comment in blocks of one byte": (
        lambda: insert(GIF, GIF_BODY, b"!\xfe" + b"\x01a" * 1_000_000 + b"\0"),
        "more items of metadata",
    ),
    "many GIF comments": (lambda: insert(GIF, GIF_BODY, b"!\xfe\x01a\0" * 500_000), "more items of metadata"),
    "GIF blocks without a meaning": (lambda: insert(GIF, GIF_BODY, b"\0" * 5_000_000), "more items of metadata"),
    "a GIF with a gigantic screen": (lambda: GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:], "too many pixels"),
    "many JPEG comments": (lambda: insert(JPEG, 2, segment(0xFE, b"") * 2_000_000), "more items of metadata"),
    "padding in a JPEG": (lambda: insert(JPEG, 2, b"\xff" * 20_000_000), "more items of metadata"),
    "junk in a JPEG": (lambda: insert(JPEG, 2, bytes(20_000_000)), "more items of metadata|not a photo"),
    "EXIF in many JPEG segments": (
        lambda: insert(JPEG, 2, segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 900),
        "more bytes of metadata",
    ),
    "EXIF tags that share their bytes in a JPEG": (
        lambda: insert(
            JPEG, 2, b"".join(segment(0xE1, b"Exif\0\0" + part) for part in (EXIF_BOMB[:60_000], EXIF_BOMB[60_000:]))
        ),
        "more bytes of metadata",
    ),
    "repeated prefixes of EXIF in a JPEG": (
        lambda: insert(JPEG, 2, segment(0xE1, b"Exif\0\0" * 10_000) * 400),
        "more items of metadata",
    ),
    "tags of several photos that share their bytes in a JPEG": (
        lambda: insert(JPEG, 2, segment(0xE2, b"MPF\0" + tags(2000, 40_000, bytes(40_000)))),
        "more bytes of metadata",
    ),
    "a JPEG with thousands of scans": (progressive_jpeg, "more scans"),
    "a JPEG with thousands of scans of one channel": (scans_of_one_channel, "more scans"),
    "many PNG notes": (lambda: insert(PNG, 33, chunk(b"tEXt", b"a\0b") * 500_000), "more items of metadata"),
    "many PNG colour profiles": (
        lambda: insert(PNG, 33, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(900_000))) * 5000),
        "more items of metadata",
    ),
    "large PNG notes": (
        lambda: insert(PNG, 33, chunk(b"tEXt", b"a\0" + bytes(900_000)) * 100),
        "more bytes of metadata",
    ),
    "EXIF tags that share their bytes in a PNG": (
        lambda: insert(PNG, 33, chunk(b"eXIf", EXIF_BOMB)),
        "more bytes of metadata",
    ),
    "many empty parts of pixels in a PNG": (lambda: insert(PNG, 33, chunk(b"IDAT") * 250_000), "more chunks"),
    "an APNG with many frames": (
        lambda: insert(PNG, len(PNG) - 12, chunk(b"fdAT", bytes(4)) * 250_000),
        "more chunks",
    ),
    "TIFF tags that share their bytes": (lambda: tags(5000, 60_000, bytes(60_000)), "more bytes of metadata"),
    "TIFF tags of the camera that share their bytes": (
        lambda: tiff((34665, 4, 1, 26), data=EXIF_BOMB[8 : 10 + 60_000 + 12] + bytes(60_000)),
        "more bytes of metadata|not a photo|damaged",
    ),
    "a BigTIFF with a million tags": (big_tiff, "has 1,000,000 tags"),
    "a TIFF of a million tiles": (
        lambda: tiff((324, 4, 1_000_000, 26), data=bytes(4_000_000)),
        "has 1,000,000 tiles",
    ),
    "a JPEG 2000 of 65,000 tiles": (lambda: jpeg2000(255, 255, 1), "has 65,025 tiles"),
    "a JPEG 2000 with many segments": (
        lambda: jpeg2000(16, 16, 16, segment(0x52, b"") * 1_000_000),
        "more items of metadata",
    ),
    "a JPEG 2000 that is larger than its header": (jp2_with_a_small_header, "too many pixels"),
    "a JPEG 2000 with many boxes": (jp2_boxes, "more items of metadata"),
    "a comment in the header of a PPM": (
        lambda: b"P6 #" + bytes(20_000_000) + b"\n2 2 255\n" + bytes(12),
        "more items of metadata",
    ),
    "many comments in a plain PPM": (lambda: b"P3 2 2 255\n" + b"#\n" * 400_000 + b"1 " * 12, "more items of metadata"),
    **{
        f"a WebP ({kind}) of a few bytes": (lambda kind=kind: webp(12_000, 8_333, kind), "too many pixels")
        for kind in ("VP8", "VP8L", "VP8X")
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(name: str) -> None:
    make, reason = HOSTILE[name]
    content = make()
    start = time.process_time()
    with pytest.raises(PhotoError, match=reason) as refusal:
        decode_photo(content, Path("a.jpg"))
    assert time.process_time() - start < SECONDS
    assert re.search(r"; .*set SFPLUS_MAX_[A-Z0-9_]+(=\d+| to a higher number)$", str(refusal.value)) or "|" in reason
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 250


def test_a_photo_read_as_one_piece_has_a_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_MAX_PHOTO_BYTES", "100")
    for kind in ("WEBP", "AVIF"):
        with pytest.raises(PhotoError, match=r"has [\d,]+ bytes, more than the limit of 100"):
            decode_photo(encode(kind, (200, 200)) + bytes(100), Path("a"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"exif": b"Exif\0\0" + tags(60, 900, bytes(900)), "comment": b"a", "icc_profile": bytes(500_000)}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"exif": tags(60, 900, bytes(900)), "icc_profile": bytes(500_000)}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("GIF", {"comment": b"a" * 60_000}),
        ("WEBP", {"exif": tags(60, 900, bytes(900))}),
        ("JPEG2000", {}),
        ("PPM", {}),
        ("AVIF", {}),
    ],
)
def test_photos_with_metadata_are_read(kind: str, options: dict[str, object]) -> None:
    assert decode_photo(encode(kind, (300, 200), **options), Path("a")).shape == (200, 300, 3)


def gif_with(label: bytes, *blocks: bytes) -> bytes:
    """Return a GIF with an application extension of many blocks."""
    content = encode("GIF", (300, 200))
    position = 13 + (3 << (content[10] & 7) + 1 if content[10] & 128 else 0)
    return insert(content, position, b"!\xff\x0b" + label + b"".join(blocks) + b"\0")


def exif_of_the_size(make: Callable[[bytes], bytes], count: int) -> bytes:
    """Return an image whose EXIF data has `count` tags that share 200,000 bytes."""
    entries = [(274, 3, 1, 6), *((1000 + number, 7, 199_000, 16) for number in range(count))]
    return make(tiff(*entries, data=bytes(200_000)))


def png_with_text_exif(exif: bytes) -> bytes:
    text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(exif):8d}\n{exif.hex()}".encode(), 9)
    return insert(encode("PNG", (300, 200)), 33, chunk(b"zTXt", text))


VALID: dict[str, Make] = {
    "progressive JPEG with a video behind it": lambda: (
        encode("JPEG", (300, 200), progressive=True) + random.Random(0).randbytes(12 << 20)
    ),
    "GIF with XMP": lambda: gif_with(b"XMP DataXMP", b"<x>" + b"<rdf:li>uuid:8f7a2b1c</rdf:li>" * 4000, b"\x01",
                                     bytes(range(255, -1, -1))),
    "GIF with a profile": lambda: gif_with(b"ICCRGBG1012", *(b"\xff" + bytes(255) for _ in range(1100))),
    "JPEG with damaged pointers in EXIF": lambda: encode(
        "JPEG", (300, 200),
        exif=b"Exif\0\0" + tiff((274, 3, 1, 1), (34665, 4, 1, 100), (34853, 4, 1, 200), data=b"\xfe\xca" * 300),
    ),
    "PNG with text behind it": lambda: encode("PNG", (300, 200)) + b"and another file",
    "PNG with EXIF as text": lambda: png_with_text_exif(tiff((274, 3, 1, 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_unusual_photos_are_read(name: str) -> None:
    assert decode_photo(VALID[name](), Path("a")).shape == (200, 300, 3)


def avif_with_exif(exif: bytes) -> bytes:
    """Return an AVIF image whose EXIF data is replaced, because Pillow would take minutes to write it."""
    text = b"q" * (len(exif) - 26)  # behind a header and one tag
    content = encode("AVIF", (300, 200), exif=tiff((270, 2, len(text), 26), data=text))
    end = content.index(text) + len(text)
    return content[: end - len(exif)] + exif + content[end:]


@pytest.mark.parametrize("make", [png_with_text_exif, avif_with_exif])
def test_exif_that_repeats_its_bytes_is_refused_in_every_place(make: Callable[[bytes], bytes]) -> None:
    content = exif_of_the_size(make, 1000)
    started = time.process_time()
    with pytest.raises(PhotoError, match="SFPLUS_MAX_PHOTO_METADATA"):
        decode_photo(content, Path("a"))
    assert time.process_time() - started < SECONDS
