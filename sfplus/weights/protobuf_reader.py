"""Walking protobuf's wire format within bounds, and writing it: what a file of large arrays needs and no more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
MAX_PARTS = 200_000
"""Fields that one file may hold in all: ten times what the largest networks have."""


class Malformed(Exception):
    """The bytes are not what they should be; whoever knows the file makes a WeightsError of it."""


class Reader:
    """Fields of the messages of one file.

    Args:
        data: the whole file.
    """

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self._left = MAX_PARTS

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
        """The fields of the message in `data[start:end]`, in order: number, wire type, offset of tag, first, last.

        `data[first:last]` is the value: of `BYTES` the content, of others the encoded number. A field of fixed size
        that repeats, as in an array that was not packed, is one field from its first tag to its last value.

        Raises:
            Malformed: the bytes are no message, or the file has too many fields.
        """
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise Malformed(f"more than {MAX_PARTS:,} fields")
            tag = start
            key, start = self.varint(start, end)
            number, kind = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise Malformed(f"field number {number} at byte {tag}")
            first = start
            if kind == VARINT:
                _, start = self.varint(start, end)
            elif kind == BYTES:
                length, first = self.varint(start, end)
                start = first + length
            elif kind in _SIZES:
                start = self._last_of_run(tag, first + _SIZES[kind], end)
            else:
                raise Malformed(f"wire type {kind} at byte {tag}")
            if start > end:
                raise Malformed(f"field {number} at byte {tag} ends {start - end:,} bytes after its message")
            yield number, kind, tag, first, start

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """The unsigned number at `start` and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if start >= end:
                raise Malformed(f"cut short at byte {end}")
            byte = self.data[start]
            start += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (1 << 64) - 1, start
        raise Malformed(f"endless number at byte {start - 10}")

    def integer(self, kind: int, first: int, last: int) -> int:
        """The value of an integer field, signed as int64."""
        if kind != VARINT:
            raise Malformed(f"wire type {kind} where a number belongs, at byte {first}")
        value, _ = self.varint(first, last)
        return value - (1 << 64) if value >> 63 else value

    def integers(self, kind: int, first: int, last: int, most: int) -> list[int]:
        """The values of a repeated integer field, packed or not; at most `most`."""
        if kind != BYTES:
            return [self.integer(kind, first, last)]
        values: list[int] = []
        while first < last and len(values) <= most:
            value, first = self.varint(first, last)
            values.append(value - (1 << 64) if value >> 63 else value)
        return values

    def array(self, kind: int, tag: int, first: int, last: int, dtype: str) -> NDArray[np.generic]:
        """The values of a repeated float or double field: a view of the file where packed, else a copy."""
        size = np.dtype(dtype).itemsize
        if kind == BYTES:
            if (last - first) % size:
                raise Malformed(f"{last - first} bytes of {size}-byte numbers at byte {first}")
            return np.frombuffer(self.data, dtype, (last - first) // size, first)
        if _SIZES.get(kind) != size:
            raise Malformed(f"wire type {kind} where {size}-byte numbers belong, at byte {tag}")
        step = first - tag + size
        rows = np.frombuffer(self.data, np.uint8, last - tag, tag).reshape(-1, step)
        return np.ascontiguousarray(rows[:, first - tag :]).view(dtype).reshape(-1)

    def _last_of_run(self, tag: int, start: int, end: int) -> int:
        """Where a run of fields like the one in `data[tag:start]` ends; the window doubles, so that time is linear."""
        step, width = start - tag, 16
        head = step - _SIZES[self.data[tag] & 7]
        mark = np.frombuffer(self.data, np.uint8, head, tag)
        while start + step <= end:
            count = min(width, (end - start) // step)
            rows = np.frombuffer(self.data, np.uint8, count * step, start).reshape(count, step)
            same = (rows[:, :head] == mark).all(1)
            run = count if same.all() else int(same.argmin())
            start += run * step
            if run < count:
                break
            width *= 2
        return start


def tagged(number: int, kind: int, value: int) -> bytes:
    """A field's tag and its number or, for `BYTES`, its length."""
    return varint(number << 3 | kind) + varint(value)


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
