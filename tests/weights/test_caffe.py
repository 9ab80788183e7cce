"""The binary format, in files whose bytes are written by hand: both formats and both precisions."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from caffe_bytes import (
    LEGACY,
    SIX,
    UNPACKED,
    UNPACKED_DOUBLES,
    doubles,
    field,
    floats,
    layer,
    old_layer,
    read,
    shape,
)

from sfplus.errors import WeightsError
from sfplus.weights.caffe import CaffeModel, read_caffemodel, write_caffemodel
from sfplus.weights.caffe_schema import NetParameter


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
def test_all_encodings_of_a_blob_are_read(make: object, blob: bytes, expected: tuple[int, ...], tmp_path: Path) -> None:
    model = read(tmp_path, field(1, b"net") + make(blob))  # type: ignore[operator]
    assert model.net.name == "net" and list(model.blobs) == ["ip"]
    (array,) = model.blobs["ip"]
    assert array.shape == expected and not array.flags.writeable
    assert array.dtype == (np.float64 if blob.find(doubles(*SIX)[:8]) >= 0 else np.float32)
    np.testing.assert_array_equal(array.reshape(-1), SIX)


def test_a_file_written_as_hexadecimal_digits(tmp_path: Path) -> None:
    """A V1 file: name "n", a layer "c" of type CONVOLUTION with one blob of 1x1x1x2 and the values 1 and -2."""
    data = bytes.fromhex("0a016e 1219 220163 2804 3212 0801 1001 1801 2002 2a08 0000803f 000000c0")
    model = read(tmp_path, data)
    assert model.net.name == "n" and model.net.layers[0].name == "c" and model.net.layers[0].type == 4
    assert model.blobs["c"][0].shape == (1, 1, 1, 2) and model.blobs["c"][0].tolist() == [[[[1, -2]]]]


def test_scalars_empty_blobs_and_layers_without_blobs(tmp_path: Path) -> None:
    data = layer(field(5, floats(3)), shape(0, 4), shape() + field(5, floats(2)))
    model = read(tmp_path, data + field(100, field(1, b"relu") + field(2, b"ReLU")))
    assert [blob.shape for blob in model.blobs["ip"]] == [(), (0, 4), ()] and list(model.blobs) == ["ip"]
    assert [layer.name for layer in model.net.layer] == ["ip", "relu"]


def test_order_names_and_unknown_fields_are_kept(tmp_path: Path) -> None:
    blob = shape(1) + field(5, floats(1))
    custom = field(100, field(1, "größe".encode()) + field(2, b"MarginInnerProduct") + field(151, field(1, 7)))
    model = read(tmp_path, layer(blob, name=b"b") + custom + layer(blob, blob, name=b"a") + field(999, b"more"))
    assert [layer.name for layer in model.net.layer] == ["b", "größe", "a"] and list(model.blobs) == ["b", "a"]
    write_caffemodel(tmp_path / "y.caffemodel", model)
    written = (tmp_path / "y.caffemodel").read_bytes()
    assert field(151, field(1, 7)) in written and field(999, b"more") in written


@pytest.mark.parametrize("packed", [True, False])
def test_memory_stays_below_twice_the_size_of_the_file(packed: bool, tmp_path: Path) -> None:
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
def test_written_files_are_exact_and_readable_by_opencv(dtype: type, tmp_path: Path) -> None:
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
        for expected, actual in zip(arrays, model.blobs[name], strict=True):
            assert actual.dtype == expected.dtype and actual.shape == expected.shape
            assert actual.tobytes() == expected.tobytes()
    if dtype == np.float32:
        text = b'name: "net" input: "data" input_dim: 1 input_dim: 6 input_dim: 1 input_dim: 1 layer { name: "ip" '
        text += b'type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }'
        opencv = cv2.dnn.readNetFromCaffe(bytearray(text), bytearray(path.read_bytes()))
        np.testing.assert_array_equal(opencv.getParam("ip", 0), blobs["ip"][0])


def test_a_blob_without_a_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no layer for the blobs of conv1"):
        write_caffemodel(tmp_path / "x.caffemodel", CaffeModel(NetParameter(), {"conv1": [np.zeros(1, np.float32)]}))
    assert list(tmp_path.iterdir()) == []
