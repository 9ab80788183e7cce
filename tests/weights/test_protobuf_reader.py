from __future__ import annotations

import struct

import numpy as np
import pytest
from caffe_bytes import field, floats, number

from sfplus.weights.protobuf_reader import BYTES, FIXED32, VARINT, MalformedError, Reader, encode_tag, encode_varint


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, (1 << 32) - 1, (1 << 64) - 1])
def test_numbers_are_encoded_as_protobuf_does(value: int) -> None:
    assert encode_varint(value) == number(value)
    assert Reader(number(value), 9).varint(0, len(number(value))) == (value, len(number(value)))


def test_fields_are_returned_in_order() -> None:
    data = field(1, b"net") + field(3, 300) + encode_tag(4, BYTES, 2) + b"xy"
    assert [(n, kind, data[first:last]) for n, kind, _, first, last in Reader(data, 999_999).fields(0, len(data))] == [
        (1, BYTES, b"net"),
        (3, VARINT, number(300)),
        (4, BYTES, b"xy"),
    ]


@pytest.mark.parametrize("count", [1, 2, 16, 17, 33, 1000])
def test_repeated_numbers_are_one_field_and_one_array(count: int) -> None:
    values = np.arange(count, dtype=np.float32)
    tag = number(5 << 3 | FIXED32)
    data = b"".join(tag + struct.pack("<f", value) for value in values) + number(6 << 3 | FIXED32) + floats(9)
    reader = Reader(data, 999_999)
    run, following = reader.fields(0, len(data))
    assert run == (5, FIXED32, 0, 1, 5 * count) and following[0] == 6
    np.testing.assert_array_equal(reader.array(run[1], run[2], run[3], run[4], "<f4"), values)


def test_packed_numbers_are_a_view_of_the_data() -> None:
    data = field(5, floats(1, -2, 3))
    reader = Reader(data, 999_999)
    ((_, kind, tag, first, last),) = reader.fields(0, len(data))
    array = reader.array(kind, tag, first, last, "<f4")
    assert array.tolist() == [1, -2, 3] and np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_integers_are_signed_and_limited() -> None:
    data = number(5) + number(-1)
    assert Reader(data, 999_999).integers(BYTES, 0, len(data), limit=9) == [5, -1]
    assert Reader(number(-3), 9).integer(VARINT, 0, 10) == -3
    assert len(Reader(bytes(100), 9).integers(BYTES, 0, 100, limit=9)) == 10


@pytest.mark.parametrize("data", [b"\x80", b"\x00\x01", b"\x0a\x05abc", b"\x0b", b"\xff" * 11])
def test_malformed_data_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="byte"):
        list(Reader(data, 999_999).fields(0, len(data)))
