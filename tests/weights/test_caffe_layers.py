"""Layers of Caffe, one at a time, against OpenCV's importer and, where OpenCV lacks or differs, closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_oracle import opencv_outputs, relative_difference, write_weights

from sfplus.weights.caffe_graph import CaffeNetwork, read_caffe_network
from sfplus.weights.caffe_layers import LAYERS

INPUT = 'input: "data" input_shape {{ dim: 1 dim: {} dim: {} dim: {} }}'


def layer(kind: str, options: str = "", bottom: str = "data", top: str = "out", name: str = "x") -> str:
    bottoms = " ".join(f'bottom: "{blob}"' for blob in bottom.split())
    tops = " ".join(f'top: "{blob}"' for blob in top.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {options} }}'


def conv(options: str, kind: str = "Convolution", bottom: str = "data", top: str = "out", name: str = "x") -> str:
    return layer(kind, f"convolution_param {{ {options} }}", bottom, top, name)


def read(folder: Path, text: str, size: tuple[int, int, int] = (4, 9, 8), output: str = "") -> CaffeNetwork:
    """Read a network with drawn weights, through a `.caffemodel` with the same weights."""
    torch.manual_seed(0)
    path = folder / "x.prototxt"
    path.write_text(INPUT.format(*size) + text)
    write_weights(read_caffe_network(path, output=output), folder / "x.caffemodel")
    return read_caffe_network(path, folder / "x.caffemodel", output)


def photos(*size: int, low: float = -1, high: float = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (3, *size)).astype(np.float32)


FEATURE = layer("InnerProduct", "inner_product_param { num_output: 5 }", top="f", name="f")
TWO = conv("num_output: 4 kernel_size: 3 pad: 1", top="b", name="before")
OPENCV = {
    "convolution": conv("num_output: 6 kernel_size: 3"),
    "convolution, stride and pad": conv("num_output: 6 kernel_size: 3 stride: 2 pad: 1"),
    "convolution, stride that leaves pixels": conv("num_output: 6 kernel_size: 2 stride: 3"),
    "convolution, groups": conv("num_output: 6 kernel_size: 3 group: 2"),
    "convolution, dilation": conv("num_output: 6 kernel_size: 3 dilation: 2 pad: 2"),
    "convolution, no bias": conv("num_output: 1 kernel_size: 1 bias_term: false"),
    "convolution, height and width": conv("num_output: 3 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1 stride_h: 2 stride_w: 1"),  # noqa: E501
    "convolution, two numbers": conv("num_output: 3 kernel_size: 3 kernel_size: 1 pad: 1 pad: 0 stride: 1 stride: 2"),
    "convolution, as large as the input": conv("num_output: 3 kernel_h: 9 kernel_w: 8"),
    "depthwise": conv("num_output: 4 kernel_size: 3 pad: 1 group: 4", "DepthwiseConvolution"),
    "deconvolution": conv("num_output: 3 kernel_size: 4 stride: 2 pad: 1", "Deconvolution"),
    "deconvolution, groups, no bias": conv("num_output: 4 kernel_size: 3 group: 4 bias_term: false", "Deconvolution"),
    "inner product": layer("InnerProduct", "inner_product_param { num_output: 5 }"),
    "inner product, no bias": layer("InnerProduct", "inner_product_param { num_output: 5 bias_term: false }"),
    "PReLU": layer("PReLU"),
    "PReLU, shared": layer("PReLU", "prelu_param { channel_shared: true }"),
    "PReLU of a feature": FEATURE + layer("PReLU", "", "f"),
    "ReLU": layer("ReLU"),
    "ReLU, slope": layer("ReLU", "relu_param { negative_slope: 0.1 }"),
    "ReLU6": layer("Power", "power_param { scale: 20 }", top="p", name="p") + layer("ReLU6", "", "p"),
    "sigmoid": layer("Sigmoid"),
    "tanh": layer("TanH"),
    "ELU": layer("ELU"),
    "absolute value": layer("AbsVal"),
    "BNLL": layer("BNLL"),
    "power": layer("Power", "power_param { power: 2 scale: 0.5 shift: 0.25 }"),
    "power, linear": layer("Power", "power_param { scale: -2 shift: 1 }"),
    "exponential": layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
    "maximum": layer("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
    "maximum, ceiling": layer("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"),
    "maximum, pad": layer("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"),
    "maximum, global": layer("Pooling", "pooling_param { pool: MAX global_pooling: true }"),
    "average": layer("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }"),
    "average, pad": layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
    "average, two numbers": layer("Pooling", "pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride: 2 }"),
    "average, global": layer("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    "sum": TWO + layer("Eltwise", "", "data b"),
    "sum, coefficients": TWO + layer("Eltwise", "eltwise_param { operation: SUM coeff: 1 coeff: -0.5 }", "data b"),
    "product": TWO + layer("Eltwise", "eltwise_param { operation: PROD }", "data b"),
    "maximum of two": TWO + layer("Eltwise", "eltwise_param { operation: MAX }", "data b"),
    "sum of three": TWO + layer("Eltwise", "", "data b data"),
    "concat": TWO + layer("Concat", "", "data b"),
    "concat, axis": TWO + layer("Concat", "concat_param { axis: -1 }", "data b"),
    "concat, old": TWO + layer("Concat", "concat_param { concat_dim: 1 }", "data b b"),
    "slice": layer("Slice", "slice_param { slice_point: 1 }", top="out o2"),
    "slice, equal parts": layer("Slice", "slice_param { axis: 2 }", top="a b c") + layer("Concat", "", "c b a", name="c"),  # noqa: E501
    "split": layer("Split", top="s1 s2") + layer("Concat", "", "s1 s2", name="c"),
    "batch norm": layer("BatchNorm"),
    "batch norm, eps": layer("BatchNorm", "batch_norm_param { use_global_stats: true eps: 0.01 }"),
    "batch norm of a feature": FEATURE
    + layer("BatchNorm", "", "f"),
    "scale": layer("Scale"),
    "scale, bias": layer("Scale", "scale_param { bias_term: true }"),
    "scale by a second input": TWO
    + layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", "b", "g", "g")
    + layer("Flatten", "", "g", "f", "f")
    + layer("Scale", "scale_param { axis: 0 }", "data f"),
    "LRN": layer("LRN", "lrn_param { local_size: 5 alpha: 1 beta: 0.75 }"),
    "LRN, options": layer("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 }"),
    "dropout": layer("Dropout", "dropout_param { dropout_ratio: 0.7 }"),
    "flatten": layer("Flatten"),
    "flatten, axes": layer("Flatten", "flatten_param { axis: 2 end_axis: 3 }"),
    "reshape": layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 4 } }"),
    "reshape, batch of one": layer("Reshape", "reshape_param { shape { dim: 1 dim: -1 dim: 4 } }"),
    "reshape, axis": layer("Reshape", "reshape_param { axis: 1 num_axes: 2 shape { dim: 6 dim: 6 } }"),
    "softmax": layer("Softmax"),
    "softmax, axis": layer("Softmax", "softmax_param { axis: 3 }"),
    "permute": layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
    "normalise": layer("Normalize", "norm_param { across_spatial: false channel_shared: false }"),
    "normalise, all numbers": layer("Normalize", "norm_param { across_spatial: true channel_shared: true }"),
    "crop": conv("num_output: 3 kernel_size: 4", top="b", name="before")
    + layer("Crop", "crop_param { offset: 2 offset: 1 }", "data b"),
    "channels in another order": layer("ShuffleChannel", "shuffle_channel_param { group: 2 }"),
    "in place": conv("num_output: 3 kernel_size: 3", top="c", name="c")
    + layer("ReLU", "", "c", "c")
    + layer("TanH", "", "c", "c", "y"),
}  # fmt: skip


@pytest.mark.parametrize("text", OPENCV.values(), ids=OPENCV)
def test_opencv_computes_the_same(text: str, tmp_path: Path) -> None:
    outputs = ",".join(f"o{i}" for i in (2, 3) if f'"o{i}"' in text)
    network = read(tmp_path, text, output=f"out,{outputs}" if outputs else "")
    data = photos(4, 9, 8)
    expected = opencv_outputs(tmp_path / "x.prototxt", tmp_path / "x.caffemodel", data, network.outputs)
    assert relative_difference(network, expected, data) < 1e-5


def test_the_types_of_the_table_are_all_types() -> None:
    text = " ".join((*OPENCV.values(), *(case[0] for case in CLOSED.values())))
    assert {kind for kind in LAYERS if f'type: "{kind}"' not in text} == {"DepthWiseConvolution"}


def mean_of_window(x: np.ndarray) -> np.ndarray:
    """Squares in windows of 3 x 3, of which those at the border are padded with zeros."""
    padded = np.pad(x * x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.asarray(sum(padded[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i in range(3) for j in range(3)) / 9)


def sum_of_five(x: np.ndarray) -> np.ndarray:
    """Sums over five channels around each, without those that do not exist."""
    padded = np.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0)))
    return np.asarray(sum(padded[:, i : i + x.shape[1]] for i in range(5)))


CLOSED: dict[str, tuple[str, Callable[[np.ndarray, CaffeNetwork], np.ndarray]]] = {
    "LRN within a channel": (
        layer("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 beta: 0.5 }"),
        lambda x, _: x / np.sqrt(1 + 2 * mean_of_window(x)),
    ),
    "LRN, defaults": (layer("LRN"), lambda x, _: x / (1 + sum_of_five(x * x) / 5) ** 0.75),  # of OpenCV: other ones
    "LRN, k": (
        layer("LRN", "lrn_param { local_size: 1 alpha: 2 beta: 1 k: 3 }"),
        lambda x, _: x / (3 + 2 * x * x),
    ),
    "normalise (NormFace)": (layer("Normalize"), lambda x, _: x / np.sqrt((x * x).sum(1, keepdims=True))),
    "clip": (layer("Clip", "clip_param { min: -0.25 max: 0.5 }"), lambda x, _: x.clip(-0.25, 0.5)),
    "swish": (layer("Swish", "swish_param { beta: 2 }"), lambda x, _: x / (1 + np.exp(-2 * x))),
    "ELU, alpha": (layer("ELU", "elu_param { alpha: 2 }"), lambda x, _: np.where(x > 0, x, 2 * np.expm1(x))),
    "logarithm": (
        layer("Log", "log_param { base: 10 scale: 0.5 shift: 1 }"),
        lambda x, _: np.log10(0.5 * x + 1),
    ),
    "exponential": (layer("Exp"), lambda x, _: np.exp(x)),
    "power 0": (layer("Power", "power_param { power: 0 scale: 2 }"), lambda x, _: np.ones_like(x)),
    "average, ceiling": (  # the window at the end has a width of 2 and is divided by it; OpenCV divides by 3
        layer("Pooling", "pooling_param { pool: AVE kernel_h: 1 kernel_w: 3 stride_h: 1 stride_w: 3 }"),
        lambda x, _: np.stack([x[..., :3].mean(-1), x[..., 3:6].mean(-1), x[..., 6:].mean(-1)], -1),
    ),
    "maximum, floor": (
        layer("Pooling", "pooling_param { kernel_h: 1 kernel_w: 3 stride_h: 1 stride_w: 3 round_mode: FLOOR }"),
        lambda x, _: x[..., :6].reshape(*x.shape[:3], 2, 3).max(-1),
    ),
    "convolution for each channel": (
        conv("num_output: 4 kernel_size: 1", "ConvolutionDepthwise"),
        lambda x, net: x * array(net, "x.weight").reshape(4, 1, 1) + array(net, "x.bias").reshape(4, 1, 1),
    ),
    "inner product, axis": (
        layer("InnerProduct", "inner_product_param { num_output: 5 axis: -1 }"),
        lambda x, net: x @ array(net, "x.weight").T + array(net, "x.bias"),
    ),
    "inner product, transposed": (
        layer("InnerProduct", "inner_product_param { num_output: 5 transpose: true }"),
        lambda x, net: x.reshape(len(x), -1) @ array(net, "x.weight").T + array(net, "x.bias"),
    ),
    "bias": (layer("Bias"), lambda x, net: x + array(net, "x.bias").reshape(4, 1, 1)),
    "bias, all dimensions": (
        layer("Bias", "bias_param { num_axes: -1 }"),
        lambda x, net: x + array(net, "x.bias"),
    ),
    "bias, a second input": (
        TWO + layer("Bias", "bias_param { axis: 0 }", "b data"),
        lambda x, net: x + before(net, x),
    ),
    "scale, one number": (
        layer("Scale", "scale_param { num_axes: 0 }"),
        lambda x, net: x * array(net, "x.weight"),
    ),
    "scale, two dimensions": (
        layer("Scale", "scale_param { axis: 2 num_axes: 2 bias_term: true }"),
        lambda x, net: x * array(net, "x.weight") + array(net, "x.bias"),
    ),
    "axpy": (
        layer("Pooling", "pooling_param { pool: MAX global_pooling: true }", "data", "g", "g")
        + layer("Axpy", "", "g data data"),
        lambda x, _: x.max((2, 3), keepdims=True) * x + x,
    ),
}  # fmt: skip


def array(network: CaffeNetwork, name: str) -> np.ndarray:
    return network.state_dict()[name].numpy()


@torch.inference_mode()
def before(network: CaffeNetwork, x: np.ndarray) -> np.ndarray:
    """Return what the convolution `before` computes, which other tests compare with OpenCV."""
    return np.asarray(network.get_submodule("before")(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize(("text", "expected"), CLOSED.values(), ids=CLOSED)
def test_closed_forms(text: str, expected: Callable[[np.ndarray, CaffeNetwork], np.ndarray], tmp_path: Path) -> None:
    network, data = read(tmp_path, text), photos(4, 9, 8)
    assert relative_difference(network, {network.output: expected(data, network)}, data) < 1e-5
