"""Bounded reader of protobuf's wire format, for files with large arrays, and the encoding of its fields."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}


class MalformedError(Exception):
    """The bytes are malformed; the reader of the file converts this to a WeightsError."""


class Reader:
    """Reader of the messages of one file.

    Args:
        data: the contents of the file.
        max_fields: the largest number of fields of which to read the tags.
    """

    def __init__(self, data: bytes, max_fields: int) -> None:
        self.data = memoryview(data)
        self._max_fields = self._remaining_fields = max_fields

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Iterate over the fields of the message in `data[start:end]`, in order.

        A repeated field of fixed size, such as an array that was not packed, is returned as one field from its first
        tag to its last value.

        Yields:
            Field number, wire type, offset of the tag, `first` and `last`, where `data[first:last]` is the value: the
            content of `BYTES`, the encoded number of other types.

        Raises:
            MalformedError: If the bytes are not a message, or the file has too many fields.
        """
        while start < end:
            self._remaining_fields -= 1
            if self._remaining_fields < 0:
                raise MalformedError(f"more than {self._max_fields:,} fields")
            tag = start
            key, start = self.varint(start, end)
            number, kind = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise MalformedError(f"field number {number} at byte {tag}")
            first = start
            if kind == VARINT:
                _, start = self.varint(start, end)
            elif kind == BYTES:
                length, first = self.varint(start, end)
                start = first + length
            elif kind in _SIZES:
                start = self._end_of_run(tag, first + _SIZES[kind], end)
            else:
                raise MalformedError(f"wire type {kind} at byte {tag}")
            if start > end:
                raise MalformedError(f"field {number} at byte {tag} ends {start - end:,} bytes after its message")
            yield number, kind, tag, first, start

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """Return the unsigned number at `start`, and the offset of the byte after it."""
        value = 0
        for shift in range(0, 70, 7):
            if start >= end:
                raise MalformedError(f"truncated at byte {end}")
            byte = self.data[start]
            start += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (1 << 64) - 1, start
        raise MalformedError(f"number without an end at byte {start - 10}")

    def integer(self, kind: int, first: int, last: int) -> int:
        """Return the value of an integer field, signed as int64."""
        if kind != VARINT:
            raise MalformedError(f"wire type {kind} instead of a number at byte {first}")
        value, _ = self.varint(first, last)
        return value - (1 << 64) if value >> 63 else value

    def integers(self, kind: int, first: int, last: int, limit: int) -> list[int]:
        """Return the values of a repeated integer field, packed or not, but not many more than `limit`."""
        if kind != BYTES:
            return [self.integer(kind, first, last)]
        values: list[int] = []
        while first < last and len(values) <= limit:
            value, first = self.varint(first, last)
            values.append(value - (1 << 64) if value >> 63 else value)
        return values

    def array(self, kind: int, tag: int, first: int, last: int, dtype: str) -> NDArray[np.generic]:
        """Return the values of a repeated float or double field: a view of the file if packed, else a copy."""
        size = np.dtype(dtype).itemsize
        if kind == BYTES:
            if (last - first) % size:
                raise MalformedError(f"{last - first} bytes of {size}-byte numbers at byte {first}")
            return np.frombuffer(self.data, dtype, (last - first) // size, first)
        if _SIZES.get(kind) != size:
            raise MalformedError(f"wire type {kind} instead of {size}-byte numbers at byte {tag}")
        step = first - tag + size
        rows = np.frombuffer(self.data, np.uint8, last - tag, tag).reshape(-1, step)
        return np.ascontiguousarray(rows[:, first - tag :]).view(dtype).reshape(-1)

    def _end_of_run(self, tag: int, start: int, end: int) -> int:
        """Return the end of the run of fields with the tag of `data[tag:start]`.

        The number of fields compared at once doubles, so that the time is linear in the length of the run.
        """
        step, window = start - tag, 16
        tag_length = step - _SIZES[self.data[tag] & 7]
        tag_bytes = np.frombuffer(self.data, np.uint8, tag_length, tag)
        while start + step <= end:
            count = min(window, (end - start) // step)
            rows = np.frombuffer(self.data, np.uint8, count * step, start).reshape(count, step)
            same = (rows[:, :tag_length] == tag_bytes).all(1)
            run = count if same.all() else int(same.argmin())
            start += run * step
            if run < count:
                break
            window *= 2
        return start


def encode_tag(number: int, kind: int, value: int) -> bytes:
    """Return the encoded tag of a field and its number or, for `BYTES`, its length."""
    return encode_varint(number << 3 | kind) + encode_varint(value)


def encode_varint(value: int) -> bytes:
    """Return an unsigned number in seven bits per byte, the lowest first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
