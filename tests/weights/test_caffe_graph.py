"""Caffe networks as torch modules: public models against OpenCV, the graph of a file, the module's interface."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_oracle import opencv_outputs, relative_difference, write_weights
from models import network as sphereface_network

from sfplus.errors import WeightsError
from sfplus.weights.caffe import CaffeModel, read_caffemodel, write_caffemodel
from sfplus.weights.caffe_graph import CaffeNetwork, caffe_network_from_text, read_caffe_network
from sfplus.weights.caffe_networks import to_caffe
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.model_folder import assign_tensors, load_tensors, to_bytes
from sfplus.weights.prototxt import write_prototxt

DATA = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 16 input_dim: 12\n'
CONV = 'layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}" convolution_param {{ {2} }} }}\n'
FEATURE = 'layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc" inner_product_param { num_output: 6 } }\n'
SMALL = (
    DATA
    + CONV.format("c", "data", "num_output: 4 kernel_size: 3 bias_term: false")
    + """layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" batch_norm_param { eps: 0.001 } }
layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "relu" type: "PReLU" bottom: "c" top: "c" }
layer { name: "drop" type: "Dropout" bottom: "c" top: "c" }
"""
    + FEATURE
)


def write(folder: Path, text: str) -> Path:
    path = folder / "x.prototxt"
    path.write_text(text)
    return path


def read(folder: Path, text: str, output: str = "") -> CaffeNetwork:
    torch.manual_seed(0)
    return read_caffe_network(write(folder, text), output=output)


def with_weights(folder: Path, text: str, output: str = "") -> tuple[CaffeNetwork, Path]:
    """Return a network of drawn weights, and the `.caffemodel` of the same weights."""
    network = read(folder, text, output)
    write_weights(network, folder / "x.caffemodel")
    return network, folder / "x.caffemodel"


def photos(*size: int, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (count, *size)).astype(np.float32))


@pytest.fixture(scope="session")
def caffe_models() -> Path:
    """Public Caffe models, outside of this repository, as pairs of files `NAME.prototxt` and `NAME.caffemodel`."""
    folder = os.environ.get("SFPLUS_CAFFE_MODELS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no folder of public Caffe models; set SFPLUS_CAFFE_MODELS")
    return Path(folder)


def assert_opencv_agrees(path: Path, folder: Path) -> None:
    """Compare with OpenCV; where there are no weights, with weights that sfplus draws."""
    torch.manual_seed(0)
    weights = path.with_suffix(".caffemodel")
    try:
        network = read_caffe_network(path, weights if weights.exists() else None)
    except WeightsError as error:  # several outputs
        output = str(error).partition("has several outputs, ")[2].partition(":")[0]
        network = read_caffe_network(path, weights if weights.exists() else None, output)
    copied = folder / "x.caffemodel"
    if weights.exists():
        copied.write_bytes(weights.read_bytes())
    else:
        write_weights(network, copied)
        network = read_caffe_network(path, copied)
    text = path
    if network.prototxt.count(b"layer {") < path.read_text().count("layer {"):  # OpenCV reads no training layers
        text = folder / "deploy.prototxt"
        text.write_bytes(network.prototxt)
    assert network.input_shape is not None
    data = photos(*network.input_shape).numpy()
    expected = opencv_outputs(text, copied, data, network.outputs)
    difference = relative_difference(network, expected, data)
    print(f"{path.stem}: {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("name", ["det1", "det2", "det3", "det4"])
def test_opencv_agrees_on_the_networks_of_mtcnn(name: str, shared_data: Path, tmp_path: Path) -> None:
    assert_opencv_agrees(shared_data / "caffe" / f"{name}.prototxt", tmp_path)


@pytest.mark.slow
def test_opencv_agrees_on_public_models(caffe_models: Path, tmp_path: Path) -> None:
    paths = sorted(caffe_models.glob("*.prototxt"))
    assert paths
    for path in paths:
        assert_opencv_agrees(path, tmp_path)


@pytest.mark.parametrize("options", [{}, {"block": "modern", "batch_norm": True, "input": "112x112"}], ids=str)
def test_networks_that_sfplus_writes(options: dict[str, object], tmp_path: Path) -> None:
    """The module of the file computes what the SphereFace network computes that was written."""
    sphereface = sphereface_network("sphereface10", 0.05, 6, **options)
    deploy, model = to_caffe(sphereface, "net", torch.ones(5, 6))
    write_prototxt(tmp_path / "x.prototxt", deploy)
    write_caffemodel(tmp_path / "x.caffemodel", model)
    caffe = read_caffe_network(tmp_path / "x.prototxt", tmp_path / "x.caffemodel")
    assert caffe.input_shape == (3, *sphereface.crop_size) and caffe.output == "fc5"
    x = photos(*caffe.input_shape)
    with torch.inference_mode():
        torch.testing.assert_close(caffe(x), sphereface(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(caffe.get_parameter("conv1_1.weight"), sphereface.get_parameter("conv1_1.weight"))


# --- the module


def test_it_is_an_ordinary_module(tmp_path: Path) -> None:
    network, weights = with_weights(tmp_path, SMALL)
    assert list(network.state_dict()) == [
        "c.weight", "bn.running_mean", "bn.running_var", "scale.weight", "scale.bias", "relu.weight", "fc.weight",
        "fc.bias",
    ]  # fmt: skip
    assert network.input_shape == (3, 16, 12) and network.output == "fc" and network.outputs == ("fc",)
    assert not network.training and all(parameter.requires_grad for parameter in network.parameters())
    x = photos(3, 16, 12, count=5)
    with torch.inference_mode():
        expected = network(x)
        assert expected.shape == (5, 6)
        assert torch.equal(network.train()(x), expected), "training mode changes nothing"
        for other in (
            pickle.loads(pickle.dumps(network)),
            copy.deepcopy(network),
            read_caffe_network(tmp_path / "x.prototxt", weights),
        ):
            torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network.double()(x.double()).float(), expected, rtol=1e-4, atol=1e-4)
        network.float().to(memory_format=torch.channels_last)
        nhwc = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(network(nhwc), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.cat([network(photo[None]) for photo in x]), expected, rtol=1e-4, atol=1e-4)
        assert network(x[:0]).shape == (0, 6)
        assert network.to("meta")(x.to("meta")).shape == (5, 6)
        assert network.forward_all(x.to("meta")).keys() == {"fc"}


def test_threads_share_a_network(tmp_path: Path) -> None:
    network = read(tmp_path, SMALL)
    x = photos(3, 16, 12, count=8)
    results: dict[int, torch.Tensor] = {}

    def compute(index: int) -> None:
        with torch.inference_mode():
            results[index] = network(x[index : index + 1])

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        for index in range(8):
            assert torch.equal(results[index], network(x[index : index + 1]))


def test_state_and_text_rebuild_the_network(tmp_path: Path) -> None:
    network = read(tmp_path, SMALL)
    (tmp_path / "model.safetensors").write_bytes(to_bytes(network.state_dict()))
    again = caffe_network_from_text(network.prototxt, tmp_path / "deploy.prototxt")
    assert all(tensor.is_meta for tensor in again.state_dict().values())
    assign_tensors(again, load_tensors(tmp_path / "model.safetensors"), "net", tmp_path / "model.safetensors")
    x = photos(3, 16, 12)
    assert torch.equal(again(x), network(x)) and again.prototxt == network.prototxt
    assert again.input_shape == network.input_shape


def test_gradients_reach_all_weights(tmp_path: Path) -> None:
    network = read(tmp_path, SMALL)
    network(photos(3, 16, 12)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


# --- the graph


def pool(top: str, bottom: str = "data", rules: str = "") -> str:
    options = "pooling_param { pool: AVE global_pooling: true }"
    return f'layer {{ name: "{top}" type: "Pooling" bottom: "{bottom}" top: "{top}" {options} {rules} }}\n'


SOURCE = 'layer {{ name: "data" type: "{}" top: "data" top: "label" {} }}\n'
LOSS = """layer { name: "head" type: "MarginInnerProduct" bottom: "fc" bottom: "label" top: "logits" top: "lambda" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "logits" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "logits" bottom: "label" top: "accuracy" }
"""
BODY = SMALL.removeprefix(DATA)
SOURCES = {
    "input": (DATA, (3, 16, 12)),
    "input shape": ('input: "data" input_shape { dim: 4 dim: 3 dim: 16 dim: 12 }', (3, 16, 12)),
    "input layer": (
        'layer { name: "i" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 12 } } }',
        (3, 16, 12),
    ),
    "crop": (SOURCE.format("Data", "transform_param { crop_size: 16 }"), (3, 16, 16)),
    "image data": (SOURCE.format("ImageData", "image_data_param { new_height: 16 new_width: 12 }"), (3, 16, 12)),
    "grey": (
        SOURCE.format("ImageData", "image_data_param { new_height: 16 new_width: 12 is_color: false }"),
        (1, 16, 12),
    ),
    "memory": (
        SOURCE.format("MemoryData", "memory_data_param { batch_size: 9 channels: 2 height: 16 width: 12 }"),
        (2, 16, 12),
    ),
    "dummy": (SOURCE.format("DummyData", "dummy_data_param { num: 9 channels: 3 height: 16 width: 12 }"), (3, 16, 12)),
    "dummy shape": (
        SOURCE.format("DummyData", "dummy_data_param { shape { dim: 9 dim: 3 dim: 16 dim: 12 } }"),
        (3, 16, 12),
    ),
    "two phases": (
        SOURCE.format("Data", "transform_param { crop_size: 20 } include { phase: TRAIN }")
        + SOURCE.format("Data", "transform_param { crop_size: 16 } include { phase: TEST }"),
        (3, 16, 16),
    ),
}


@pytest.mark.parametrize(("source", "shape"), SOURCES.values(), ids=SOURCES)
def test_forms_of_the_input(source: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    text = source + BODY + (LOSS if "label" in source else "")
    network, weights = with_weights(tmp_path, text)
    again = read_caffe_network(write(tmp_path, text), weights)
    assert again.input_shape == network.input_shape == shape and again.output == "fc"
    assert again(torch.zeros(2, *shape)).shape == (2, 6)


@pytest.mark.parametrize("size", [(112, 96), (112, 112)])
def test_without_a_stated_size_the_weights_fix_it(size: tuple[int, int], tmp_path: Path) -> None:
    stated = f'input: "data" input_dim: 1 input_dim: 5 input_dim: {size[0]} input_dim: {size[1]}\n'
    _, weights = with_weights(tmp_path, stated + BODY)
    text = SOURCE.format("ImageData", "") + BODY + LOSS
    network = read_caffe_network(write(tmp_path, text), weights)
    assert network.input_shape == (5, *size)
    assert caffe_network_from_text(network.prototxt, tmp_path).input_shape == (5, *size)
    assert read_caffe_network(tmp_path / "x.prototxt").input_shape is None, "without weights nothing fixes it"


def test_a_network_without_linear_layer_takes_any_size(tmp_path: Path) -> None:
    body = CONV.format("c", "data", "num_output: 4 kernel_size: 3") + pool("g", "c")
    _, weights = with_weights(tmp_path, DATA + body)
    network = read_caffe_network(write(tmp_path, SOURCE.format("Data", "") + body), weights)
    assert network.input_shape is None
    for size in ((30, 40), (5, 9)):
        assert network(torch.zeros(2, 3, *size)).shape == (2, 4, 1, 1)


RULES = {
    "include { phase: TEST }": True,
    "include { phase: TRAIN }": False,
    "exclude { phase: TRAIN }": True,
    "exclude { phase: TEST }": False,
    "include { phase: TRAIN } include { phase: TEST }": True,
    'include { stage: "deploy" }': False,
    'include { not_stage: "deploy" }': True,
    "include { min_level: 1 }": False,
    "include { min_level: 0 max_level: 0 }": True,
    "exclude { max_level: -1 }": True,
}


@pytest.mark.parametrize(("rule", "included"), RULES.items())
def test_rules_of_the_phase(rule: str, included: bool, tmp_path: Path) -> None:
    network = read(tmp_path, DATA + pool("g") + pool("h", "data", rule), "g,h" if included else "")
    assert network.outputs == (("g", "h") if included else ("g",))


def test_stages_and_levels_are_those_of_the_file(tmp_path: Path) -> None:
    state = 'state { phase: TRAIN level: 2 stage: "deploy" }\n'
    rule = 'include { stage: "deploy" min_level: 2 phase: TEST }'
    assert read(tmp_path, state + DATA + pool("h", "data", rule)).output == "h"


def test_only_what_the_output_needs_is_built(tmp_path: Path) -> None:
    unknown = 'layer { name: "u" type: "DetectionOutput" bottom: "c" top: "u" }\n'
    classes = FEATURE.replace('"fc"', '"classes"').replace('"c"', '"fc"')
    network = read(tmp_path, SMALL + unknown + classes, "fc")
    assert network.output == "fc" and "classes.weight" not in network.state_dict()
    assert b"DetectionOutput" not in network.prototxt
    intermediate = read(tmp_path, SMALL + unknown, "c")
    assert intermediate(photos(3, 16, 12)).shape == (2, 4, 14, 10)
    assert [name for name, _ in intermediate.named_children()] == ["c", "bn", "scale", "relu", "drop"]


def test_a_blob_that_is_read_before_and_after_it_changes_in_place(tmp_path: Path) -> None:
    """As in Caffe, which inserts a Split: the layer between reads the values before the change."""
    body = pool("g") + 'layer { name: "p" type: "Power" bottom: "data" top: "data" power_param { scale: 3 } }\n'
    network = read(tmp_path, DATA + body + pool("h"), "g,h")
    both = network.forward_all(photos(3, 16, 12))
    torch.testing.assert_close(both["h"], both["g"] * 3)
    assert torch.equal(network(photos(3, 16, 12)), both["g"])


def test_layers_named_like_attributes_of_a_module(tmp_path: Path) -> None:
    names = ["forward", "output", "training", "conv.1", "conv_1", "a/b", "", "größe"]
    body, bottom = "", "data"
    for name in names:
        body += f'layer {{ name: "{name}" type: "Scale" bottom: "{bottom}" top: "t{name}" }}\n'
        bottom = f"t{name}"
    network, weights = with_weights(tmp_path, DATA + body)
    assert list(network.state_dict()) == [
        "forward_.weight", "output_.weight", "training_.weight", "conv_1.weight", "conv_1_.weight", "a/b.weight",
        "scale.weight", "größe.weight",
    ]  # fmt: skip
    again = read_caffe_network(tmp_path / "x.prototxt", weights)
    assert torch.equal(again(photos(3, 16, 12)), network(photos(3, 16, 12)))
    assert isinstance(pickle.loads(pickle.dumps(again)), CaffeNetwork)


def test_a_reshape_written_for_one_photo_or_ten(tmp_path: Path) -> None:
    for batch in (1, 10):
        source = f'input: "data" input_dim: {batch} input_dim: 3 input_dim: 16 input_dim: 12\n'
        shape = f"shape {{ dim: {batch} dim: -1 dim: 4 }}"
        body = f'layer {{ name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param {{ {shape} }} }}'
        network = read(tmp_path, source + body)
        for count in (1, 3, 10):
            x = photos(3, 16, 12, count=count)
            assert torch.equal(network(x), x.reshape(count, -1, 4))


def test_a_reshape_that_joins_photos_and_one_that_separates_them(tmp_path: Path) -> None:
    body = """layer { name: "a" type: "Reshape" bottom: "data" top: "a" reshape_param { shape { dim: -1 dim: 12 } } }
    layer { name: "s" type: "Softmax" bottom: "a" top: "s" }
    layer { name: "b" type: "Reshape" bottom: "s" top: "b" reshape_param { shape { dim: 1 dim: -1 dim: 12 } } }"""
    network, x = read(tmp_path, DATA + body), photos(3, 16, 12, count=3)
    torch.testing.assert_close(network(x), x.softmax(3).reshape(3, 48, 12))


def test_files_of_the_old_format(tmp_path: Path) -> None:
    """`layers` with names of types in capitals, blobs with four dimensions."""
    text = (
        DATA
        + """layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1
          convolution_param { num_output: 4 kernel_size: 3 } }
    layers { name: "r" type: RELU bottom: "c" top: "c" relu_param { negative_slope: 0.5 } }
    layers { name: "n" type: LRN bottom: "c" top: "n" lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 } }
    layers { name: "p" type: POOLING bottom: "n" top: "p" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
    layers { name: "fc" type: INNER_PRODUCT bottom: "p" top: "fc" inner_product_param { num_output: 6 } }
    layers { name: "t" type: TANH bottom: "fc" top: "fc" }
    layers { name: "q" type: POWER bottom: "fc" top: "fc" power_param { scale: 3 } }
    layers { name: "loss" type: SOFTMAX_LOSS bottom: "fc" bottom: "label" top: "loss" include { phase: TRAIN } }"""
    )
    network, weights = with_weights(tmp_path, text)
    blobs = read_caffemodel(weights).blobs
    net = NetParameter(name="old")
    for name in blobs:
        net.layers.add(name=name, type=4)
    wide = {
        name: [blob.reshape((1,) * (4 - blob.ndim) + blob.shape) for blob in group] for name, group in blobs.items()
    }
    write_caffemodel(tmp_path / "old.caffemodel", CaffeModel(net, wide))
    old = read_caffe_network(tmp_path / "x.prototxt", tmp_path / "old.caffemodel")
    x = photos(3, 16, 12)
    assert torch.equal(old(x), network(x))
    expected = opencv_outputs(tmp_path / "written.prototxt", weights, x.numpy(), ("fc",))
    assert relative_difference(old, expected, x.numpy()) < 1e-5
