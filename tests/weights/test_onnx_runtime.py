from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from channel_means import means_of, onnx_bytes
from onnx import TensorProto, helper

from sfplus.embedder import Embedder
from sfplus.errors import UsageError, WeightsError
from sfplus.networks.preprocessing import PRESETS
from sfplus.weights.convert import convert
from sfplus.weights.loading import read_model
from sfplus.weights.onnx_runtime import OnnxNetwork

CROPS = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)


def write(folder: Path, *arguments: Any, **options: Any) -> Path:
    path = folder / "x.onnx"
    path.write_bytes(onnx_bytes(*arguments, **options))
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "input", "mean", "scale"),
    [
        (["N", 3, 112, 112], TensorProto.FLOAT, "insightface", 127.5, 127.5),
        ([1, 3, 112, 112], TensorProto.FLOAT, "insightface", 127.5, 127.5),
        ([4, 3, 112, 112], TensorProto.FLOAT, "insightface", 127.5, 127.5),
        (["N", 112, 112, 3], TensorProto.FLOAT, "insightface,layout=nhwc", 127.5, 127.5),
        (["N", 3, "H", "W"], TensorProto.FLOAT, "mobilefacenet", 127.5, 128),
        (["N", 112, 112, 3], TensorProto.UINT8, "sface,layout=nhwc", 0, 1),
        (["N", 3, 112, 112], TensorProto.FLOAT16, "sface", 0, 1),
    ],
)
def test_a_graph_gets_the_described_input(
    shape: list[Any], dtype: int, input: str, mean: float, scale: float, tmp_path: Path
) -> None:
    embedder = Embedder(write(tmp_path, shape, dtype), "cpu", input=input)
    assert embedder.width == 3
    tolerance = 0.1 if dtype == TensorProto.FLOAT16 else 1e-4
    np.testing.assert_allclose(embedder.features(CROPS), means_of(CROPS, mean, scale), atol=tolerance)
    mirrored = Embedder(tmp_path / "x.onnx", "cpu", input=f"{input},mirror=true,channels=bgr")
    expected = means_of(CROPS, mean, scale, bgr=True)
    np.testing.assert_allclose(mirrored.features(CROPS), np.hstack([expected, expected]), atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "options", "template", "numbers", "layout"),
    [
        (["N", 3, 112, 112], {}, "arcface-112x112", (127.5, 127.5), "nchw"),
        (["N", 3, 112, 112], {"normalise": (127.5, 128.0)}, "arcface-112x112", (0, 1), "nchw"),
        ([1, 112, 112, 3], {}, "arcface-112x112", (127.5, 127.5), "nhwc"),
        (["N", 3, 112, 96], {}, "sphereface-112x96", (127.5, 128), "nchw"),
        (["N", 3, 160, 160], {}, "facenet-160x160", (127.5, 128), "nchw"),
        (["N", 150, 150, 3], {}, "dlib-150x150", (122.782, 256), "nhwc"),
        (["N", 3, 128, 128], {}, "arcface-128x128", (127.5, 127.5), "nchw"),
    ],
)
def test_the_input_is_guessed_aloud(
    shape: list[Any], options: Any, template: str, numbers: tuple[float, float], layout: str, tmp_path: Path
) -> None:
    path = write(tmp_path, shape, **options)
    with pytest.warns(UserWarning, match="its input is assumed to be .*; if not, give --input"):
        guess = read_model(path).preprocessing
    assert (guess.template, guess.mean[0], guess.scale[0], guess.layout) == (template, *numbers, layout)


def test_a_guess_is_not_made_where_the_shape_is_open(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say which crops its network takes; give --input"):
        read_model(write(tmp_path, ["N", 3, "H", "W"]))


def test_one_of_several_outputs_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, ["N", 3, 112, 112], outputs=3)
    assert read_model(path, input="insightface,output=out2").config["preprocessing"]["output"] == "out2"
    assert read_model(path, input="insightface").config["preprocessing"]["output"] == "out0", "the first of the graph"
    with pytest.raises(WeightsError, match="has the outputs out0, out1, out2; choose one"):
        read_model(path, input="insightface,output=foo")


def test_a_network_can_be_pickled_and_called_from_several_threads(tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_bytes(["N", 3, 112, 112]), Path("x.onnx"))
    network = pickle.loads(pickle.dumps(network))
    x = torch.from_numpy(CROPS).permute(0, 3, 1, 2).float()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: network(x)["out0"], range(16)))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "is damaged"),
        (b"", "cannot be run by onnxruntime"),
        (onnx_bytes(["N", 3, 112, 96]), "does not accept arcface-112x112 crops"),
        (onnx_bytes(["N", 1, 112, 112]), "does not accept arcface-112x112 crops"),
    ],
)
def test_unsuitable_graphs_are_refused_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match=message) as caught:
        read_model(tmp_path / "x.onnx", input="insightface")
    assert "\n" not in str(caught.value) and "onnxruntime_src" not in str(caught.value)


@pytest.mark.slow
def test_weights_in_a_file_beside_the_graph_are_read(tmp_path: Path) -> None:
    source = tmp_path / "x.onnx"
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 7, 7), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    batch = ({0: torch.export.Dim("N")},)
    options = {"dynamo": True, "verbose": False, "dynamic_shapes": batch, "input_names": ["x"]}
    torch.onnx.export(network, (torch.zeros(2, 3, 112, 112),), source, external_data=True, **options)  # type: ignore[arg-type]
    assert (tmp_path / "x.onnx.data").stat().st_size > 10_000
    features = Embedder(source, "cpu", input="sface").features(CROPS)
    with torch.inference_mode():
        expected = network(torch.from_numpy(CROPS).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-3)
    convert(source, tmp_path / "model", input="sface")
    np.testing.assert_array_equal(Embedder(tmp_path / "model", "cpu").features(CROPS), features)
    (tmp_path / "x.onnx.data").unlink()
    with pytest.raises(WeightsError, match=r"with its \.data file beside it"):
        read_model(source, input="sface")


def test_a_graph_without_an_image_input_is_refused(tmp_path: Path) -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", info[:2], info[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="not one image input"):
        read_model(tmp_path / "x.onnx", input="insightface")


def test_a_folder_and_a_described_file_need_no_input(tmp_path: Path) -> None:
    source = write(tmp_path, ["N", 3, 112, 112])
    convert(source, tmp_path / "folder", input="adaface")
    convert(tmp_path / "folder", tmp_path / "described.onnx")
    convert(tmp_path / "described.onnx", tmp_path / "again")
    expected = means_of(CROPS, 127.5, 127.5, bgr=True)
    for name in ("folder", "described.onnx", "again"):
        embedder = Embedder(tmp_path / name, "cpu")
        assert embedder.preprocessing == PRESETS["adaface"]
        np.testing.assert_allclose(embedder.features(CROPS), expected, atol=1e-4)
