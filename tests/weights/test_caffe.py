"""The binary format, on files of hand-made bytes: both generations, both precisions, and everything that is wrong."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sfplus.errors import WeightsError
from sfplus.weights.caffe import CaffeModel, read_caffemodel, write_caffemodel
from sfplus.weights.caffe_schema import NetParameter


def number(value: int) -> bytes:
    """An unsigned number; negative ones as int64."""
    value %= 1 << 64
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def field(key: int, content: bytes | int) -> bytes:
    """A field with bytes, or with a number."""
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
    """A file of one layer, of the current format."""
    return field(100, field(1, name) + field(2, b"InnerProduct") + b"".join(field(7, blob) for blob in blobs))


def old_layer(*blobs: bytes, name: bytes = b"ip") -> bytes:
    """A file of one layer, V1: the name is field 4, type 14 is INNER_PRODUCT, blobs are field 6."""
    return field(2, field(2, b"data") + field(4, name) + field(5, 14) + b"".join(field(6, blob) for blob in blobs))


def read(folder: Path, data: bytes) -> CaffeModel:
    path = folder / "x.caffemodel"
    path.write_bytes(data)
    return read_caffemodel(path)


LEGACY = field(1, 1) + field(2, 1) + field(3, 2) + field(4, 3)
SIX = (1.5, -2.0, 0.0, 4.0, 5.0, -6.25)
UNPACKED = b"".join(number(5 << 3 | 5) + floats(value) for value in SIX)
UNPACKED_DOUBLES = b"".join(number(8 << 3 | 1) + doubles(value) for value in SIX)


@pytest.mark.parametrize(
    ("blob", "expected"),
    [
        (shape(2, 3) + field(5, floats(*SIX)), (2, 3)),
        (field(5, floats(*SIX)) + shape(2, 3), (2, 3)),
        (shape(2, 3) + field(8, doubles(*SIX)), (2, 3)),
        (shape(2, 3) + UNPACKED, (2, 3)),
        (shape(2, 3) + UNPACKED_DOUBLES, (2, 3)),
        (field(7, field(1, 2) + field(1, 3)) + field(5, floats(*SIX)), (2, 3)),
        (LEGACY + field(5, floats(*SIX)), (1, 1, 2, 3)),
        (LEGACY + field(8, doubles(*SIX)), (1, 1, 2, 3)),
        (shape(6) + LEGACY + field(5, floats(*SIX)), (1, 1, 2, 3)),
        (shape(6) + field(5, floats(*SIX[:2])) + field(5, floats(*SIX[2:])), (6,)),
        (shape(6) + field(5, floats(*SIX[:1])) + UNPACKED[5:15] + field(5, b"") + field(5, floats(*SIX[3:])), (6,)),
        (shape(6) + field(5, floats(9, 9)) + field(8, doubles(*SIX)), (6,)),
        (shape(6) + field(8, b"") + field(5, floats(*SIX)), (6,)),
        (shape(6) + field(5, floats(*SIX)) + field(6, floats(7, 7)) + field(9, doubles(7)) + field(77, 3), (6,)),
    ],
)
@pytest.mark.parametrize("make", [layer, old_layer])
def test_every_way_to_write_a_blob(make: object, blob: bytes, expected: tuple[int, ...], tmp_path: Path) -> None:
    model = read(tmp_path, field(1, b"net") + make(blob))  # type: ignore[operator]
    assert model.net.name == "net" and list(model.blobs) == ["ip"]
    (array,) = model.blobs["ip"]
    assert array.shape == expected and not array.flags.writeable
    assert array.dtype == (np.float64 if blob.find(doubles(*SIX)[:8]) >= 0 else np.float32)
    np.testing.assert_array_equal(array.reshape(-1), SIX)


def test_bytes_written_out_by_hand(tmp_path: Path) -> None:
    """A V1 file: name "n", a layer "c" of type CONVOLUTION with one blob of 1x1x1x2 and the values 1 and -2."""
    data = bytes.fromhex("0a016e 1219 220163 2804 3212 0801 1001 1801 2002 2a08 0000803f 000000c0")
    model = read(tmp_path, data)
    assert model.net.name == "n" and model.net.layers[0].name == "c" and model.net.layers[0].type == 4
    assert model.blobs["c"][0].shape == (1, 1, 1, 2) and model.blobs["c"][0].tolist() == [[[[1, -2]]]]


def test_scalars_empty_blobs_and_layers_without(tmp_path: Path) -> None:
    data = layer(field(5, floats(3)), shape(0, 4), shape() + field(5, floats(2)))
    model = read(tmp_path, data + field(100, field(1, b"relu") + field(2, b"ReLU")))
    assert [blob.shape for blob in model.blobs["ip"]] == [(), (0, 4), ()] and list(model.blobs) == ["ip"]
    assert [item.name for item in model.net.layer] == ["ip", "relu"]


def test_order_names_and_unknown_fields_are_kept(tmp_path: Path) -> None:
    blob = shape(1) + field(5, floats(1))
    custom = field(100, field(1, "größe".encode()) + field(2, b"MarginInnerProduct") + field(151, field(1, 7)))
    model = read(tmp_path, layer(blob, name=b"b") + custom + layer(blob, blob, name=b"a") + field(999, b"more"))
    assert [item.name for item in model.net.layer] == ["b", "größe", "a"] and list(model.blobs) == ["b", "a"]
    write_caffemodel(tmp_path / "y.caffemodel", model)
    written = (tmp_path / "y.caffemodel").read_bytes()
    assert field(151, field(1, 7)) in written and field(999, b"more") in written


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
    "endless number": number(100 << 3 | 2) + b"\xff" * 11,
    "number cut short": b"\xa2",
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
    "a million dimensions": layer(shape(*[1] * 1_000_000) + field(5, floats(1))),
    "legacy size that is text": layer(field(1, b"x") + field(5, floats(1))),
    "missing legacy size": layer(field(1, 1) + field(5, floats(1))),
    "same name twice": layer(shape(1) + field(5, floats(1))) * 2,
    "name that is no text": layer(shape(1) + field(5, floats(1)), name=b"\xff\xfe"),
    "first format": field(2, field(1, field(1, b"conv"))),
    "too much that is no weights": field(1, b"n" * (5 << 20)) + layer(),
    "too many fields": field(3, b"") * 300_000 + layer(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_files_get_one_clear_line(data: bytes, tmp_path: Path) -> None:
    clock = time.perf_counter()
    with pytest.raises(WeightsError, match=r"x\.caffemodel: is not a readable Caffe model \(.+\); get") as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert time.perf_counter() - clock < 5


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    import os

    path = tmp_path / "x.caffemodel"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(WeightsError, match="no such file"):
        read_caffemodel(path)


def test_larger_than_the_format_allows(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # sparse
    with pytest.raises(WeightsError, match="2 GiB"):
        read_caffemodel(path)


WHOLE = (
    field(1, b"net")
    + old_layer(LEGACY + UNPACKED, name=b"old")
    + layer(shape(2, 3) + field(5, floats(*SIX)), shape(2) + field(8, doubles(1, 2)), name=b"new")
    + field(100, field(1, b"relu") + field(2, b"PReLU") + field(3, b"new") + field(131, field(2, 1)))
)


def test_every_truncation(tmp_path: Path) -> None:
    """A cut file is refused, or is the network of its first layers: the format has no end mark."""
    whole = read(tmp_path, WHOLE)
    for length in range(len(WHOLE)):
        try:
            model = read(tmp_path, WHOLE[:length])
        except WeightsError:
            continue
        assert list(model.net.layer) == list(whole.net.layer)[: len(model.net.layer)]
        for name, blobs in model.blobs.items():
            assert [blob.tolist() for blob in blobs] == [blob.tolist() for blob in whole.blobs[name]]


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 3), st.binary(max_size=12)), min_size=1, max_size=4
    )
)
@example(changes=[(6, 3, b"\xff\xff\xff\xff\x07")])
def test_mutations(changes: list[tuple[int, int, bytes]], tmp_path: Path) -> None:
    """Bytes changed, inserted, removed: one WeightsError, or arrays that hold no more than the file."""
    data = WHOLE
    for offset, removed, inserted in changes:
        data = data[:offset] + inserted + data[offset + removed :]
    try:
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


@settings(max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_noise(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "blob",
    [
        (number(5 << 3 | 5) + floats(1) + field(5, floats(1))) * 90_000,  # runs of one
        number(5 << 3 | 5) * 1_000_000,
        field(5, floats(1)) * 180_000,
        field(5, b"") * 250_000,
        field(7, field(1, 1) * 90_000),
    ],
)
def test_hostile_blobs_take_linear_time(blob: bytes, tmp_path: Path) -> None:
    clock = time.perf_counter()
    with pytest.raises(WeightsError):
        read(tmp_path, layer(blob))
    assert time.perf_counter() - clock < 10


def test_a_large_field_that_is_no_weights_is_not_copied(tmp_path: Path) -> None:
    data = field(3, bytes(20_000_000))
    (tmp_path / "x.caffemodel").write_bytes(data + layer())
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="4 MiB that are no weights"):
            read_caffemodel(tmp_path / "x.caffemodel")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [True, False])
def test_memory_stays_below_twice_the_file(packed: bool, tmp_path: Path) -> None:
    values = np.arange(1_000_000, dtype=np.float32)
    if packed:
        data = field(5, values.tobytes())
    else:
        rows = np.empty((len(values), 5), np.uint8)
        rows[:, 0], rows[:, 1:] = 5 << 3 | 5, values.view(np.uint8).reshape(-1, 4)
        data = rows.tobytes()
    (tmp_path / "x.caffemodel").write_bytes(layer(shape(1000, 1000) + data))
    size = (tmp_path / "x.caffemodel").stat().st_size
    del data
    tracemalloc.start()
    try:
        model = read_caffemodel(tmp_path / "x.caffemodel")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(model.blobs["ip"][0].reshape(-1), values)
    assert peak < (1.1 if packed else 2) * size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_written_files_are_exact_and_read_by_opencv(dtype: type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    odd = np.array([np.nan, np.inf, -0.0, 1e-45, 3e38, 1], dtype).reshape(2, 3)
    blobs = {"ip": (rng.standard_normal((4, 6)).astype(dtype), rng.standard_normal(4).astype(dtype)), "odd": (odd,)}
    net = NetParameter(name="net", input=["data"])
    net.layer.add(name="ip", type="InnerProduct", bottom=["data"], top=["ip"]).inner_product_param.num_output = 4
    net.layer.add(name="odd", type="Dropout", bottom=["ip"], top=["ip"])
    path = tmp_path / "x.caffemodel"
    write_caffemodel(path, CaffeModel(net, {"ip": (blobs["ip"][0].T.copy().T, blobs["ip"][1]), "odd": (odd,)}))
    model = read_caffemodel(path)
    assert model.net == net
    for name, arrays in blobs.items():
        for one, other in zip(arrays, model.blobs[name], strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if dtype == np.float32:
        text = b'name: "net" input: "data" input_dim: 1 input_dim: 6 input_dim: 1 input_dim: 1 layer { name: "ip" '
        text += b'type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }'
        opencv = cv2.dnn.readNetFromCaffe(bytearray(text), bytearray(path.read_bytes()))
        np.testing.assert_array_equal(opencv.getParam("ip", 0), blobs["ip"][0])


def test_a_blob_without_its_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no layer for the blobs of conv1"):
        write_caffemodel(tmp_path / "x.caffemodel", CaffeModel(NetParameter(), {"conv1": [np.zeros(1, np.float32)]}))
    assert list(tmp_path.iterdir()) == []
