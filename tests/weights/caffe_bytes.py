"""Builders of files in Caffe's format, byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

from sfplus.weights.caffe import CaffeModel, read_caffemodel


def number(value: int) -> bytes:
    """Return a number as varint; negative ones as int64."""
    value %= 1 << 64
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def field(key: int, content: bytes | int) -> bytes:
    """Return a field that contains bytes or a number."""
    if isinstance(content, int):
        return number(key << 3) + number(content)
    return number(key << 3 | 2) + number(len(content)) + content


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def doubles(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def shape(*sizes: int) -> bytes:
    return field(7, field(1, b"".join(map(number, sizes))))


def layer(*blobs: bytes, name: bytes = b"ip") -> bytes:
    """Return a file with one layer in the current format."""
    return field(100, field(1, name) + field(2, b"InnerProduct") + b"".join(field(7, blob) for blob in blobs))


def old_layer(*blobs: bytes, name: bytes = b"ip") -> bytes:
    """Return a file with one layer in format V1: the name is field 4, type 14 is INNER_PRODUCT, blobs are field 6."""
    return field(2, field(2, b"data") + field(4, name) + field(5, 14) + b"".join(field(6, blob) for blob in blobs))


def read(folder: Path, data: bytes) -> CaffeModel:
    path = folder / "x.caffemodel"
    path.write_bytes(data)
    return read_caffemodel(path)


LEGACY = field(1, 1) + field(2, 1) + field(3, 2) + field(4, 3)
SIX = (1.5, -2.0, 0.0, 4.0, 5.0, -6.25)
UNPACKED = b"".join(number(5 << 3 | 5) + floats(value) for value in SIX)
UNPACKED_DOUBLES = b"".join(number(8 << 3 | 1) + doubles(value) for value in SIX)
