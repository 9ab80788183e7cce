"""SphereFace networks in Caffe files: OpenCV computes the same features, and reading them back is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from caffe_oracle import write_weights
from models import OPTIONS, crops, network
from slow_cases import mostly_slow

from sfplus.errors import WeightsError
from sfplus.networks.normalize import normalize_crops
from sfplus.networks.sphereface import SphereFaceNet
from sfplus.weights.caffe import CaffeModel, write_caffemodel
from sfplus.weights.caffe_graph import read_caffe_network
from sfplus.weights.caffe_networks import from_caffe, to_caffe
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.loading import create_network, load_model, read_model
from sfplus.weights.prototxt import write_prototxt


def write(folder: Path, net: SphereFaceNet, head: torch.Tensor | None = None) -> Path:
    deploy, model = to_caffe(net, "net", head)
    write_prototxt(folder / "x.prototxt", deploy)
    write_caffemodel(folder / "x.caffemodel", model)
    return folder / "x.caffemodel"


def assert_opencv_agrees(net: SphereFaceNet, path: Path) -> None:
    height = 112
    width = 112 if net.options.get("input") == "112x112" else 96
    x = normalize_crops(torch.from_numpy(crops(2, height, width))).contiguous()
    with torch.inference_mode():
        expected = net(x).numpy()
    caffe = cv2.dnn.readNetFromCaffe(str(path.with_suffix(".prototxt")), str(path))
    caffe.setInput(x.numpy())
    actual = caffe.forward()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Compare the names and bits of all tensors."""
    expected, actual = first.state_dict(), second.state_dict()
    assert list(expected) == list(actual)
    for name, tensor in expected.items():
        assert tensor.numpy().tobytes() == actual[name].numpy().tobytes(), name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opencv_computes_the_same_features_and_reading_back_is_exact(options: dict[str, Any], tmp_path: Path) -> None:
    net = network(**options)
    path = write(tmp_path, net)
    assert_opencv_agrees(net, path)
    loaded, config = load_model(path)
    assert_same(net, loaded)
    assert config == {
        "network": "sphereface20", "feature_size": 24, "width": 0.125, "provenance": config["provenance"],
        "template": "arcface-112x112" if "input" in options else "sphereface-112x96", **options,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sphereface20", "sphereface64"])
def test_full_size_networks_in_caffe_files(name: str, tmp_path: Path) -> None:
    net = network(name, 1.0, 512)
    path = write(tmp_path, net)
    assert_opencv_agrees(net, path)
    assert_same(net, create_network(name, path))


@pytest.mark.parametrize("name", ["sphereface4", "sphereface10", "sphereface36", "sphereface64", "sphereface64-caffe"])
@pytest.mark.parametrize("width", mostly_slow([0.005, 0.02, 0.11, 0.3], [0.02]))
def test_the_network_is_inferred_from_its_layers(name: str, width: float, tmp_path: Path) -> None:
    net = network(name, width, 3)
    model = read_model(write(tmp_path, net))
    assert_same(net, model.network)
    assert model.config["network"] == name and model.config["feature_size"] == 3


def test_layers_are_those_of_the_released_prototxt(tmp_path: Path) -> None:
    """Names, types and connections of sphereface_deploy.prototxt; the sums are those of the 20-layer network."""
    deploy, _ = to_caffe(network(), "net")
    kinds = {"conv": "Convolution", "relu": "PReLU", "res": "Eltwise", "fc5": "InnerProduct"}
    sums = {}
    for layer in deploy.layer:
        assert layer.type == next(kind for prefix, kind in kinds.items() if layer.name.startswith(prefix))
        if layer.type == "Eltwise":
            sums[layer.name] = list(layer.bottom)
        elif layer.type == "PReLU":
            assert list(layer.bottom) == list(layer.top) == [layer.name.replace("relu", "conv")]
    assert sums == {
        "res1_3": ["conv1_1", "conv1_3"], "res2_3": ["conv2_1", "conv2_3"], "res2_5": ["res2_3", "conv2_5"],
        "res3_3": ["conv3_1", "conv3_3"], "res3_5": ["res3_3", "conv3_5"], "res3_7": ["res3_5", "conv3_7"],
        "res3_9": ["res3_7", "conv3_9"], "res4_3": ["conv4_1", "conv4_3"],
    }  # fmt: skip
    assert list(deploy.input) == ["data"] and list(deploy.input_dim) == [1, 3, 112, 96]


def released_64_layers() -> str:
    """Return sphereface_deploy.prototxt of Sphereface-64, at a 64th of its channels."""
    text, top = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 112 input_dim: 96\n', "data"
    for stage, last in ((1, 7), (2, 15), (3, 33), (4, 7)):
        for layer in range(1, last + 1):
            name, bottom = f"{stage}_{layer}", top if layer < 3 or layer % 2 == 0 else f"conv{stage}_{layer - 1}"
            options = f"num_output: {2 ** (stage - 1)} kernel_size: 3 stride: {2 if layer == 1 else 1} pad: 1"
            text += f"""layer {{ name: "conv{name}" type: "Convolution" bottom: "{bottom}" top: "conv{name}"
              convolution_param {{ {options} }} }}
            layer {{ name: "relu{name}" type: "PReLU" bottom: "conv{name}" top: "conv{name}" }}\n"""
            if layer == 1:
                top = f"conv{name}"
            elif layer % 2:
                text += f"""layer {{ name: "res{name}" type: "Eltwise" bottom: "{top}" bottom: "conv{name}"
                  top: "res{name}" eltwise_param {{ operation: SUM }} }}\n"""
                top = f"res{name}"
    options = "inner_product_param { num_output: 5 }"
    return f'{text}layer {{ name: "fc5" type: "InnerProduct" bottom: "{top}" top: "fc5" {options} }}'


def test_a_released_network_of_64_layers_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "x.prototxt").write_text(released_64_layers())
    write_weights(read_caffe_network(tmp_path / "x.prototxt"), tmp_path / "x.caffemodel")
    model = read_model(tmp_path / "x.caffemodel")
    assert model.config["network"] == "sphereface64-caffe" and model.config["width"] == 1 / 64
    assert isinstance(model.network, SphereFaceNet) and model.network.units == (3, 7, 16, 3)
    assert_opencv_agrees(model.network, tmp_path / "x.caffemodel")


def test_the_classifier_is_stored_with_the_weights(tmp_path: Path) -> None:
    net, head = network(), torch.randn(7, 24)
    path = write(tmp_path, net, head)
    model = read_model(path)
    assert model.head is not None and torch.equal(model.head, head)
    assert_same(net, model.network)
    assert_opencv_agrees(net, path)
    assert "fc6" not in path.with_suffix(".prototxt").read_text()


def as_v1(model: CaffeModel) -> CaffeModel:
    """Convert a model to the format of 2014: `layers`, double precision and four dimensions."""
    net = NetParameter(name="old")
    for layer in model.net.layer:
        net.layers.add(name=layer.name, type=4, bottom=layer.bottom, top=layer.top)
    blobs = {
        name: [blob.reshape((1,) * (4 - blob.ndim) + blob.shape).astype(np.float64) for blob in blobs]
        for name, blobs in model.blobs.items()
    }
    return CaffeModel(net, blobs)


def test_files_of_the_old_format_are_read(tmp_path: Path) -> None:
    net = network()
    write_caffemodel(tmp_path / "x.caffemodel", as_v1(to_caffe(net, "net", torch.ones(2, 24))[1]))
    model = read_model(tmp_path / "x.caffemodel")
    assert_same(net, model.network)
    assert model.head is not None and model.head.shape == (2, 24)


def changed(model: CaffeModel, **blobs: Any) -> CaffeModel:
    return CaffeModel(model.net, {**model.blobs, **blobs})


def test_biases_of_residual_convolutions_may_be_missing(tmp_path: Path) -> None:
    net = network()
    _, model = to_caffe(net, "net")
    write_caffemodel(tmp_path / "x.caffemodel", changed(model, conv1_2=model.blobs["conv1_2"][:1]))
    with torch.no_grad():
        net.conv1_2.bias.zero_()  # type: ignore[union-attr,operator]
    assert_same(net, create_network("sphereface20", tmp_path / "x.caffemodel", width=0.125, feature_size=24))


def test_the_energy_layer_of_sphereface_plus_is_not_part_of_the_network(tmp_path: Path) -> None:
    net = network()
    _, model = to_caffe(net, "net", torch.ones(5, 24))
    model.net.layer.add(name="inter_class_dist_output", type="InterClass", bottom=["fc5", "label"])
    write_caffemodel(tmp_path / "x.caffemodel", changed(model, inter_class_dist_output=model.blobs["fc6"]))
    assert_same(net, read_model(tmp_path / "x.caffemodel").network)


def test_statistics_of_batch_normalisation_are_divided_by_their_factor() -> None:
    """Caffe stores sums, and their factor as a third blob."""
    _, model = to_caffe(network(batch_norm=True), "net")
    mean, variance, _ = model.blobs["bn1_1"]
    scaled = changed(model, bn1_1=(mean * 4, variance * 4, np.array([4], np.float32)))
    expected, actual = from_caffe(model).tensors, from_caffe(scaled).tensors
    assert torch.equal(actual["bn1_1.running_mean"], expected["bn1_1.running_mean"])
    assert torch.equal(actual["bn1_1.running_var"], expected["bn1_1.running_var"])


ZERO = np.zeros
REFUSED = [
    (
        {"conv2_3": [ZERO((16, 16, 3, 2), "f")]},
        r"conv2_3.weight is \(16, 16, 3, 2\), sphereface20 needs \(16, 16, 3, 3\)",
    ),
    ({"fc5": [ZERO((24, 2600), "f"), ZERO(24, "f")]}, r"fc5.weight is \(24, 2600\), sphereface20 needs \(24, 2688\)"),
    ({"relu3_4": [ZERO(31, "f")]}, r"relu3_4.weight is \(31,\), sphereface20 needs \(32,\)"),
    ({"relu3_4": []}, "relu3_4.weight is missing"),
    ({"fc5": [ZERO((24, 2688), "f")]}, "fc5.bias is missing"),
    ({"res1_3": [ZERO(1, "f")]}, "res1_3.weight does not belong to sphereface20"),
    ({"relu1_1": [np.full(8, np.nan, "f")]}, "relu1_1.weight does not hold finite"),
    ({"relu1_1": [np.full(8, 1e300)]}, "relu1_1.weight does not hold finite"),
    ({"fc5": [ZERO((70_000, 1), "f"), ZERO(70_000, "f")]}, "feature_size"),
    ({"conv1_1": []}, "conv1_1.weight is missing"),
    ({"conv1_1": [ZERO((0, 3, 3, 3), "f")]}, r"conv1_1.weight is \(0, 3, 3, 3\), sphereface20 needs \(8, 3, 3, 3\)"),
    ({"conv1_1": [ZERO((), "f")]}, r"conv1_1.weight is \(\), sphereface20 needs \(8, 3, 3, 3\)"),
]


@pytest.mark.parametrize(("blobs", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else None)
def test_the_message_names_the_first_layer_that_differs(blobs: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_caffemodel(tmp_path / "x.caffemodel", changed(to_caffe(network(), "net")[1], **blobs))
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(tmp_path / "x.caffemodel")
    assert "x.caffemodel" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"name": "sphereface10"}, "conv1_2.weight does not belong to sphereface10"),
        ({"name": "sphereface36"}, "conv1_4.weight is missing"),
        ({"width": 1.0}, r"conv1_1.weight is \(8, 3, 3, 3\), sphereface20 needs \(64, 3, 3, 3\)"),
        ({"feature_size": 512}, r"fc5.weight is \(24, 2688\), sphereface20 needs \(512, 2688\)"),
        ({"block": "modern"}, "has the options"),
        ({"input": "112x112"}, "has the options"),
    ],
)
def test_weights_of_a_different_network_are_refused(requested: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, network())
    options = {"name": "sphereface20", "width": 0.125, "feature_size": 24} | requested
    with pytest.raises(WeightsError, match=message):
        create_network(options.pop("name"), path, **options)


def test_networks_with_several_outputs_are_refused(shared_data: Path) -> None:
    with pytest.raises(WeightsError, match=r"has several outputs, conv6-2, conv6-3, prob1"):
        load_model(shared_data / "caffe" / "det3.caffemodel")
