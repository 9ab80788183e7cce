"""ONNX files of a few bytes that would take all memory, run for ever or forge messages."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import memory_below

pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper

from sfplus.device import choose_device
from sfplus.errors import SfplusError, WeightsError
from sfplus.networks.embed import embed_crops
from sfplus.weights.loading import read_model
from sfplus.weights.onnx_runtime import OnnxNetwork
from sfplus.weights.protobuf_reader import BYTES, encode_tag

CONFIG = {"network": "onnx", "feature_size": 3, "template": "arcface-112x112", "preprocessing": {"mirror": False}}
MEANS = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
IDENTITY = helper.make_node("Identity", ["f"], ["y"])


def graph(*nodes: Any, config: Any = None, output: str = "y", **constants: Any) -> bytes:
    """Return a network whose nodes turn `f`, the mean colours, into `output`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 112, 112])
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", "M"])
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph([*MEANS, *nodes], "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    if config is not None:
        helper.set_model_props(model, {"sfplus.config": config if isinstance(config, str) else json.dumps(config)})
    return bytes(model.SerializeToString())


def endless() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []),
         helper.make_tensor_value_info("w", TensorProto.FLOAT, ["N", 3])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["n", "go", "f"], ["y"], body=body)
    return graph(loop, n=np.int64(2**60), go=np.bool_(True))


def huge() -> bytes:
    nodes = [("ConstantOfShape", ["s"], ["b"]), ("ReduceSum", ["b"], ["r"]), ("Add", ["f", "r"], ["y"])]
    return graph(*(helper.make_node(*node) for node in nodes), s=np.array([2_000_000_000]))


def external(folder: str) -> bytes:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "z")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=folder)
    return graph(helper.make_node("Constant", [], ["z"], value=tensor), helper.make_node("Add", ["f", "z"], ["y"]))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "8 GB constant": (huge, "does not accept"),
    "many empty nodes": (lambda: encode_tag(7, BYTES, 200_002) + b"\x0a\x00" * 100_001, "fields"),
    "many empty attributes": (
        lambda: encode_tag(7, BYTES, 200_006) + encode_tag(1, BYTES, 200_002) + b"\x2a\x00" * 100_001, "fields"
    ),
    "weights of the system": (lambda: external("/etc/passwd"), "weights in other folders"),
    "weights above": (lambda: external("../x"), "weights in other folders"),
    "escape codes": (lambda: graph(helper.make_node("No\x1b[2J\nsame person", ["f"], ["y"])), "cannot be run"),
    "long name": (lambda: graph(IDENTITY, output="y" * 100_000), "cannot be run"),
    **{
        f"config {name}": (lambda config=config: graph(IDENTITY, config=config), message)  # type: ignore[misc]
        for name, config, message in [
            ("text", "{", "is damaged"), ("list", "[]", "is damaged"), ("empty", "{}", "network: Field required"),
            ("nested", "[" * 100_000, "nested too deeply"), ("null", "null", "is damaged"),
            ("provenance", CONFIG | {"provenance": []}, "provenance"),
            ("size", CONFIG | {"feature_size": "3"}, "feature_size"),
            ("mean", CONFIG | {"preprocessing": {"mean": [1e308]}}, "mean is 1e.308"),
            ("template", CONFIG | {"template": "arcface-9999x9999"}, "99,980,001 pixels, more than the limit"),
            ("other network", CONFIG | {"network": "timm:eva_giant_patch14_224"}, "larger than these weights|timm"),
            ("sphereface", CONFIG | {"network": "sphereface64", "width": 16.0}, "larger than these weights"),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_without_much_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFPLUS_MAX_ONNX_FIELDS", "100000")  # a tenth of the default, which takes seconds
    make, message = HOSTILE[name]
    (tmp_path / "x.onnx").write_bytes(make())
    with memory_below(600), pytest.raises(Exception, match=message) as caught:
        read_model(tmp_path / "x.onnx", input="" if "config" in name else "insightface")
    text = str(caught.value)
    assert type(caught.value).__module__ == "sfplus.errors" and text.isprintable() and len(text) < 700


@pytest.mark.slow
def test_an_endless_graph_stops_at_the_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.onnx").write_bytes(endless())
    monkeypatch.setenv("SFPLUS_MAX_ONNX_SECONDS", "1")
    with pytest.raises(WeightsError, match="takes more than 1 seconds"):
        read_model(tmp_path / "x.onnx", input="insightface")


@pytest.mark.slow
def test_an_endless_graph_stops_at_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(endless())
    timer = threading.Timer(2, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            read_model(tmp_path / "x.onnx", input="insightface")
    finally:
        timer.cancel()


def test_a_batch_above_the_limit_of_memory_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = OnnxNetwork(graph(IDENTITY), tmp_path / "x.onnx")

    class Full:
        def run(self, *_: Any) -> None:
            raise Exception("bfc_arena.cc:376 Available memory of 1 is smaller than requested bytes of 2")

    monkeypatch.setattr(network, "_session", lambda device: Full())
    with pytest.raises(SfplusError, match=r"not enough memory .*SFPLUS_MAX_ONNX_BYTES.*use a smaller batch_size"):
        embed_crops(network, torch.zeros(2, 112, 112, 3, dtype=torch.uint8), choose_device("cpu"))
