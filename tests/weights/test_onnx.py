from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import OPTIONS, crops, network
from onnx import TensorProto, helper

from sfplus.errors import DependencyError, WeightsError
from sfplus.networks import create, network_names
from sfplus.networks.normalize import normalize_crops
from sfplus.weights.caffe_graph import read_caffe_network
from sfplus.weights.loading import create_network, load_model
from sfplus.weights.onnx import read_onnx, to_onnx

CONFIG = {
    "network": "sphereface20",
    "feature_size": 24,
    "width": 0.125,
    "template": "sphereface-112x96",
    "note": "größe",
}
FAST = ("sphereface4",)


def operators(data: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(data).graph.node)


@torch.inference_mode()
def check_opencv(data: bytes, net: torch.nn.Module, *size: int) -> None:
    """Compare the features that OpenCV's importer computes for one and for three crops."""
    if not hasattr(cv2.dnn, "readNetFromONNX"):
        pytest.skip("this OpenCV does not read ONNX")
    graph = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    for count in (1, 3):
        x = torch.rand(count, *size, generator=torch.Generator().manual_seed(count)) * 2 - 1
        graph.setInput(x.numpy())
        actual, expected = graph.forward(), net(x).numpy()
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [OPTIONS[-1], *(pytest.param(options, marks=pytest.mark.slow) for options in OPTIONS[:-1])], ids=str
)
@torch.inference_mode()
def test_onnxruntime_agrees_and_reading_back_is_exact(options: dict[str, Any], tmp_path: Path) -> None:
    net = network("sphereface10", 0.05, 6, **options)
    config = CONFIG | options | {"network": "sphereface10", "width": 0.05, "feature_size": 6}
    path = tmp_path / "x.onnx"
    data, error = to_onnx(net, config)
    path.write_bytes(data)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert b"site-packages" not in data and b"sphereface.py" not in data, "no paths of this machine"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [crops_input.shape[1:] for crops_input in session.get_inputs()] == [
        [3, 112, 112 if "input" in options else 96]
    ]
    for count in (1, 2, 5):
        x = normalize_crops(torch.from_numpy(crops(count, 112, 112 if "input" in options else 96))).contiguous()
        expected = net(x)
        actual = torch.from_numpy(session.run(["features"], {"crops": x.numpy()})[0])
        assert actual.shape == expected.shape
        assert float((actual - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert 0 <= error < 1e-4
    check_opencv(data, net, 3, *net.crop_size)
    loaded, loaded_config = load_model(path)
    assert loaded_config == config
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in network_names()]
)
def test_opencv_reads_every_network(name: str) -> None:
    """The graph consists of the layers, the sums and the flattening; nothing computes a shape."""
    net = network(name, 0.05, 6)
    data, _ = to_onnx(net, {"network": name})
    layers = sum(isinstance(module, torch.nn.Conv2d) for module in net.modules())
    expected = Counter(Conv=layers, PRelu=layers, Add=sum(net.units), Constant=1, Reshape=1, Gemm=1)
    assert operators(data) == +expected
    check_opencv(data, net, 3, 112, 96)


@pytest.mark.slow
def test_opencv_reads_networks_of_caffe_files(shared_data: Path) -> None:
    for name, output in (("det1", "prob1"), ("det2", "prob1"), ("det3", "prob1"), ("det4", "fc5_1")):
        files = [shared_data / "caffe" / f"{name}.{suffix}" for suffix in ("prototxt", "caffemodel")]
        net = read_caffe_network(*files, output)
        assert net.input_shape is not None
        data, _ = to_onnx(net, {"network": name}, net.input_shape)
        assert not operators(data).keys() & {"Shape", "Gather", "Expand", "Cast", "Range"}
        check_opencv(data, net, *net.input_shape)


@pytest.mark.slow
def test_fresh_weights_keep_their_names(tmp_path: Path) -> None:
    """Also zero biases, which a graph does not need."""
    net = create("sphereface4", width=0.05, feature_size=6).eval()
    (tmp_path / "x.onnx").write_bytes(to_onnx(net, {"network": "sphereface4", "feature_size": 6})[0])
    tensors = read_onnx(tmp_path / "x.onnx").tensors()
    expected = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


@pytest.mark.slow
def test_files_of_earlier_versions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In them, shapes are computed from N, and a PReLU has its slopes from a Reshape."""
    monkeypatch.setattr("sfplus.weights.onnx._fold_constants", lambda *_: None)
    net = network("sphereface4", 0.05, 6)
    data, _ = to_onnx(net, {"network": "sphereface4", "width": 0.05, "feature_size": 6})
    assert operators(data)["Concat"]
    (tmp_path / "x.onnx").write_bytes(data)
    loaded, _ = load_model(tmp_path / "x.onnx")
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sphereface20", "sphereface64"])
def test_full_size_networks_in_onnx_files(name: str, tmp_path: Path) -> None:
    net = network(name, 1.0, 512)
    data, error = to_onnx(net, {"network": name, "feature_size": 512, "width": 1.0})
    assert error < 1e-4
    (tmp_path / "x.onnx").write_bytes(data)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.onnx"]
    create_network(name, tmp_path / "x.onnx")


@pytest.mark.slow
def test_a_timm_network_is_exported_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = create("timm:resnet10t", feature_size=6).eval()
    data, error = to_onnx(net, {"network": "timm:resnet10t", "feature_size": 6, "width": 1.0})
    (tmp_path / "x.onnx").write_bytes(data)
    loaded, _ = load_model(tmp_path / "x.onnx")
    x = torch.randn(2, 3, 112, 96)
    assert error < 1e-4 and torch.equal(loaded(x), net(x))


@pytest.mark.slow
def test_a_file_that_computes_different_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("sphereface4", 0.05, 6)
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *args: [run(*args)[0] * 1.001])
    with pytest.raises(WeightsError, match="the features of ONNX and torch differ"):
        to_onnx(net, {"network": "sphereface4"})


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_a_package_the_message_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=rf"{package}: .*pip install .*\[onnx\]"):
        to_onnx(network("sphereface4", 0.05, 6), {"network": "sphereface4"})


def model(*tensors: TensorProto, config: str | None = None) -> bytes:
    graph = helper.make_graph([], "g", [], [], list(tensors))
    proto = helper.make_model(graph)
    if config is not None:
        helper.set_model_props(proto, {"sfplus.config": config})
    return proto.SerializeToString()


def external(name: str) -> TensorProto:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


WEIGHT = helper.make_tensor("conv1_1.weight", TensorProto.FLOAT, [8, 3, 3, 3], [0.0] * 216)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be run by onnxruntime"),
        (b"hello", "is damaged"),
        (model(external("conv1_1.weight")), "has its weights in other folders"),
        (model(WEIGHT, config="{"), "is damaged"),
        (model(WEIGHT, config="[]"), "is damaged"),
        (model(WEIGHT, config="{}"), "network: Field required"),
        (model(WEIGHT, config='{"network": "os.system", "feature_size": 1, "width": 1.0}'), "no network is called"),
        (model(WEIGHT), "relu1_1.weight is missing"),
        (model(helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])), "cannot be run by onnxruntime"),
    ],
)
def test_unsuitable_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(tmp_path / "x.onnx")
    assert "\n" not in str(caught.value) and "x.onnx" in str(caught.value)


def test_a_shape_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor("conv1_1.weight", TensorProto.FLOAT, [1], [0.0])
    tensor.dims[:] = [1 << 40, 1 << 40]
    (tmp_path / "x.onnx").write_bytes(model(tensor))
    with pytest.raises(WeightsError, match="is damaged"):
        read_onnx(tmp_path / "x.onnx").tensors()
