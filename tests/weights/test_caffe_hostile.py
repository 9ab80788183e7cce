"""Damaged, truncated and malicious Caffe files."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from caffe_bytes import (
    LEGACY,
    SIX,
    UNPACKED,
    doubles,
    field,
    floats,
    layer,
    number,
    old_layer,
    read,
    shape,
)
from cpu_time import cpu_time_below
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from slow_cases import slow

from sfplus.errors import WeightsError
from sfplus.weights.caffe import read_caffemodel, write_caffemodel

BAD = {
    "empty": b"",
    "text": b"name: 'net' layer { }",
    "html": b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>",
    "zeros": bytes(64),
    "no layer": field(1, b"net"),
    "no layer, but input": field(3, b"data") + field(4, 1),
    "length beyond the file": number(100 << 3 | 2) + number(1 << 20) + b"x",
    "length of 2^63": number(100 << 3 | 2) + number(1 << 63),
    "length that wraps": number(100 << 3 | 2) + number((1 << 64) - 1),
    "number without an end": number(100 << 3 | 2) + b"\xff" * 11,
    "truncated number": b"\xa2",
    "field 0": b"\x00\x01",
    "group": field(100, b"\x0b\x0c"),
    "wire type 7": field(100, b"\x0f"),
    "blob longer than its layer": field(100, number(7 << 3 | 2) + number(99) + b"xx"),
    "blob that is a number": field(100, field(1, b"ip") + field(7, 5)),
    "two of three values": layer(shape(3) + field(5, floats(1, 2))),
    "values without a shape": layer(field(5, floats(1, 2))),
    "shape without values": layer(shape(3)),
    "half a value": layer(shape(1) + field(5, floats(1) + b"\0")),
    "doubles for floats": layer(shape(2) + field(5, doubles(1))[:-1]),
    "float as varint": layer(shape(1) + field(5, 1)),
    "float as fixed64": layer(shape(1) + number(5 << 3 | 1) + doubles(1)),
    "negative size": layer(shape(-1) + field(5, floats(1))),
    "two negative sizes": layer(shape(-1, -1) + field(5, floats(1))),
    "negative legacy size": layer(field(1, -1) + field(2, -1) + field(3, 1) + field(4, 1) + field(5, floats(1))),
    "product of 2^64 + 1": layer(shape(274177, 67280421310721) + field(5, floats(1))),
    "product of 2^64": layer(shape(1 << 32, 1 << 32)),
    "huge shape": layer(shape(1 << 62, 1 << 62) + field(5, floats(1))),
    "huge shape with a zero in it": layer(shape(1 << 62, 0) + field(5, floats(1))),
    "empty, and too large for numpy": layer(shape(1 << 62, 0)),
    "empty, of many sizes": layer(shape(*[1 << 30] * 8, 0)),
    "33 dimensions": layer(shape(*[1] * 33) + field(5, floats(1))),
    "a million dimensions": layer(field(7, field(1, number(1) * 1_000_000)) + field(5, floats(1))),
    "text as legacy size": layer(field(1, b"x") + field(5, floats(1))),
    "missing legacy size": layer(field(1, 1) + field(5, floats(1))),
    "same name twice": layer(shape(1) + field(5, floats(1))) * 2,
    "name that is not text": layer(shape(1) + field(5, floats(1)), name=b"\xff\xfe"),
    "first format": field(2, field(1, field(1, b"conv"))),
    "too much besides weights": field(1, b"n" * (5 << 20)) + layer(),
    "too many fields": field(3, b"") * 300_000 + layer(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_files_get_one_clear_line(data: bytes, tmp_path: Path) -> None:
    with (
        cpu_time_below(5),
        pytest.raises(WeightsError, match=r"x\.caffemodel: is not a readable Caffe model \(.+\); get") as caught,
    ):
        read(tmp_path, data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_paths_that_are_not_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(WeightsError, match="no such file"):
        read_caffemodel(path)


def test_a_file_larger_than_the_format_allows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # sparse
    with pytest.raises(WeightsError, match="2 GiB"):
        read_caffemodel(path)


VALID = (
    field(1, b"net")
    + old_layer(LEGACY + UNPACKED, name=b"old")
    + layer(shape(2, 3) + field(5, floats(*SIX)), shape(2) + field(8, doubles(1, 2)), name=b"new")
    + field(100, field(1, b"relu") + field(2, b"PReLU") + field(3, b"new") + field(131, field(2, 1)))
)


def test_a_truncated_file_is_refused_or_contains_the_first_layers(tmp_path: Path) -> None:
    """The format has no end mark."""
    complete = read(tmp_path, VALID)
    for length in range(len(VALID)):
        try:
            model = read(tmp_path, VALID[:length])
        except WeightsError:
            continue
        assert list(model.net.layer) == list(complete.net.layer)[: len(model.net.layer)]
        for name, blobs in model.blobs.items():
            assert [blob.tolist() for blob in blobs] == [blob.tolist() for blob in complete.blobs[name]]


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 3), st.binary(max_size=12)), min_size=1, max_size=4
    )
)
@example(changes=[(6, 3, b"\xff\xff\xff\xff\x07")])
def test_changed_files_are_refused_or_read_safely(changes: list[tuple[int, int, bytes]], tmp_path: Path) -> None:
    """Changed, inserted or removed bytes give a WeightsError, or arrays that are not larger than the file."""
    data = VALID
    for offset, removed, inserted in changes:
        data = data[:offset] + inserted + data[offset + removed :]
    try:
        with cpu_time_below(2):
            model = read(tmp_path, data)
    except WeightsError as error:
        assert "\n" not in str(error)
        return
    assert sum(blob.nbytes for blobs in model.blobs.values() for blob in blobs) <= len(data)
    write_caffemodel(tmp_path / "y.caffemodel", model)
    again = read_caffemodel(tmp_path / "y.caffemodel")
    assert again.net.SerializePartialToString() == model.net.SerializePartialToString()
    for name, blobs in model.blobs.items():
        assert [blob.tobytes() for blob in again.blobs[name]] == [blob.tobytes() for blob in blobs]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes, tmp_path: Path) -> None:
    with cpu_time_below(2), pytest.raises(WeightsError):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "blob",
    [
        slow((number(5 << 3 | 5) + floats(1) + field(5, floats(1))) * 90_000),  # runs of one
        number(5 << 3 | 5) * 1_000_000,
        slow(field(5, floats(1)) * 180_000),
        slow(field(5, b"") * 250_000),
        field(7, field(1, 1) * 90_000),
    ],
)
def test_hostile_blobs_take_linear_time(blob: bytes, tmp_path: Path) -> None:
    with cpu_time_below(10), pytest.raises(WeightsError):
        read(tmp_path, layer(blob))


def test_a_large_field_besides_the_weights_is_not_copied(tmp_path: Path) -> None:
    data = field(3, bytes(20_000_000))
    (tmp_path / "x.caffemodel").write_bytes(data + layer())
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="4 MiB that are not weights"):
            read_caffemodel(tmp_path / "x.caffemodel")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * len(data)
    finally:
        tracemalloc.stop()
