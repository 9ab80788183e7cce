from __future__ import annotations

from caffe_bytes import LEGACY, field, floats, number, shape

from sfplus.weights.caffe_schema import NetParameter


def test_messages_have_the_bytes_of_caffe() -> None:
    net = NetParameter(name="net")
    layer = net.layer.add(name="c", type="Convolution")
    layer.convolution_param.stride.extend([2, 1])
    layer.blobs.add(data=[1, 2]).shape.dim.append(2)
    blob = field(5, floats(1, 2)) + shape(2)
    stride = field(6, 2) + field(6, 1)
    content = field(1, b"c") + field(2, b"Convolution") + field(7, blob) + field(106, stride)
    assert net.SerializeToString() == field(1, b"net") + field(100, content)


def test_messages_of_the_old_format_have_the_bytes_of_caffe() -> None:
    net = NetParameter()
    blob = net.layers.add(bottom=["data"], name="c", type=4).blobs.add(num=1, channels=1, height=2, width=3)
    blob.data.append(1.5)
    content = field(2, b"data") + field(4, b"c") + field(5, 4) + field(6, LEGACY + field(5, floats(1.5)))
    assert net.SerializeToString() == field(2, content)


def test_enums_with_equal_names_of_values_are_separate() -> None:
    net = NetParameter()
    layer = net.layer.add()
    layer.eltwise_param.operation, layer.pooling_param.pool = 2, 0
    assert "operation: MAX" in str(net) and "pool: MAX" in str(net)


def test_unknown_fields_are_preserved() -> None:
    data = field(1, b"net") + field(999, b"unknown") + number(998 << 3) + number(7)
    assert NetParameter.FromString(data).SerializeToString() == data
