"""ONNX files, for any batch size, that contain their config; needs the extra `onnx`."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.errors import DependencyError, WeightsError, explain_damage, first_line
from sfplus.io.extras import install_command
from sfplus.io.files import file_size
from sfplus.networks import DEFAULT_INPUT, parse_size
from sfplus.weights.model_config import parse_config
from sfplus.weights.onnx_fields import check_onnx_fields

TOLERANCE = 1e-4
"""Largest accepted difference of onnxruntime from torch, relative to the largest number of the features."""
_CONFIG_KEY = "sfplus.config"
_FIRST_NODES = 8  # of a graph, in which insightface looks for the normalisation
_MAX_BYTES = (1 << 31) - 1  # of any protobuf message
_GRAPHS = (5, 10)  # AttributeProto.GRAPH and GRAPHS


def to_onnx(
    network: nn.Module, config: Mapping[str, Any], input_shape: tuple[int, int, int] | None = None
) -> tuple[bytes, float]:
    """Export a network to ONNX, and check that onnxruntime computes the same features for 1 and for 3 random crops.

    The input is called `crops`, (N, 3, height, width) float32 as `networks.normalize.normalize_crops` returns it, for
    any N; the output is called `features`. Shapes that do not depend on N are numbers in the file, as OpenCV requires.
    Weights keep their names, and `OnnxFile.tensors` returns them unchanged.

    Args:
        network: on the CPU, in evaluation mode.
        config: stored in the file; `read_onnx` returns it.
        input_shape: channels, height and width of the input; default: three, and the size of crops in the config.

    Returns:
        The bytes of the file, and the largest difference of a number, relative to the largest number.

    Raises:
        WeightsError: If the network cannot be exported, or the file computes different features.
        DependencyError: If onnx, onnxscript or onnxruntime is missing.
    """
    onnx, onnxruntime = import_onnx("onnx"), import_onnx("onnxruntime")
    import_onnx("onnxscript")
    generator = torch.Generator().manual_seed(0)
    shape = input_shape or (3, *parse_size(config.get("input", DEFAULT_INPUT)))
    crops = torch.rand(3, *shape, generator=generator) * 2 - 1
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network, (crops,), dynamo=True, verbose=False, optimize=False, external_data=False,
                input_names=["crops"], output_names=["features"], dynamic_shapes=({0: torch.export.Dim("N")},),
            )  # fmt: skip
            _fold_constants(program.model, network.state_dict().keys())  # type: ignore[union-attr]
    except Exception as error:  # the exporter has no common exception
        raise WeightsError(f"{config['network']} cannot be exported to ONNX ({first_line(error)})") from error
    model = program.model_proto  # type: ignore[union-attr]
    for message in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        message.ClearField("metadata_props")  # paths of the source files on this machine
    onnx.helper.set_model_props(model, {_CONFIG_KEY: json.dumps(dict(config))})
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    largest_error = 0.0
    for batch in (crops[:1], crops):
        with torch.inference_mode():
            expected = network(batch).numpy()
        actual = session.run(["features"], {"crops": batch.numpy()})[0]
        if actual.shape != expected.shape:
            raise WeightsError(f"ONNX computes features of shape {actual.shape}, torch {expected.shape}")
        difference = np.abs(actual - expected).max() / np.abs(expected).max().clip(1e-30)
        largest_error = max(largest_error, float(difference))
    if not largest_error <= TOLERANCE:
        reason = "the features of ONNX and torch differ"
        raise WeightsError(f"{reason} by {largest_error:.1e} of the largest number")
    return data, largest_error


def _fold_constants(model: Any, weights: Set[str]) -> None:
    """Compute what depends on constants alone, so that the initializers of the graph are the weights, unchanged.

    The exporter's own `optimize=True` also removes weights that are zero.
    """
    ir, rewriter = import_onnx("onnx_ir"), import_onnx("onnxscript.rewriter")
    optimizer, rules = import_onnx("onnxscript.optimizer"), import_onnx("onnxscript.rewriter.rules.common")

    def has_no_weight(node: Any) -> bool:
        return all(value is None or value.name not in weights for value in node.inputs)

    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=has_no_weight)
    _fold_slopes(model.graph)
    rewriter.rewrite(model, [rules.materialize_reshape_shape_rule])  # removes unused nodes too
    for name, value in list(model.graph.initializers.items()):
        if name not in weights:
            constant = ir.node("Constant", [], {"value": value.const_value})
            model.graph.insert_before(model.graph[0], constant)
            value.replace_all_uses_with(constant.outputs[0])
            del model.graph.initializers[name]


def _fold_slopes(graph: Any) -> None:
    """Store the slopes of each PReLU in the shape (C, 1, 1) that ONNX needs; `OnnxFile.tensors` flattens them again."""
    ir = import_onnx("onnx_ir")
    for node in graph:
        reshape = node.inputs[1].producer() if node.op_type == "PRelu" else None
        slopes = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
        if slopes is not None and slopes.is_initializer() and len(slopes.uses()) == 1:
            ones = (1,) * (len(node.inputs[0].shape) - 2)
            slopes.const_value = ir.tensor(slopes.const_value.numpy().reshape(-1, *ones), name=slopes.name)
            slopes.shape = slopes.const_value.shape
            node.replace_input_with(1, slopes)


def describe_onnx(data: bytes, config: Mapping[str, Any]) -> bytes:
    """Return an ONNX file with a config stored in it.

    Raises:
        DependencyError: If onnx is missing.
    """
    onnx = import_onnx("onnx")
    model = onnx.load_model_from_string(data)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {_CONFIG_KEY: json.dumps(dict(config))})
    return bytes(model.SerializeToString())


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """An ONNX file in memory.

    Attributes:
        path: the file.
        data: its bytes, with the weights that are in files beside it.
        model: the same as a ModelProto.
        config: what `to_onnx` or `describe_onnx` stored in it; None if there is nothing.
    """

    path: Path
    data: bytes
    model: Any
    config: dict[str, Any] | None

    @property
    def first_operators(self) -> set[str]:
        """The operators of the first nodes."""
        return {node.op_type for node in self.model.graph.node[:_FIRST_NODES]}

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by name, the slopes of a PReLU as torch has them: (C,).

        Raises:
            WeightsError: If one is damaged.
        """
        to_array = import_onnx("onnx").numpy_helper.to_array
        slopes = {node.input[1] for node in self.model.graph.node if node.op_type == "PRelu"}
        with explain_damage(self.path, remedy="get the file again", error=WeightsError):
            arrays = {weight.name: np.array(to_array(weight)) for weight in self.model.graph.initializer}
            return {
                name: torch.from_numpy(array.reshape(-1) if name in slopes else array) for name, array in arrays.items()
            }


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file, with weights that are in files beside it.

    Raises:
        WeightsError: If the file cannot be read, or its weights are in other folders.
        DependencyError: If onnx is missing.
    """
    onnx, remedy = import_onnx("onnx"), "get the file again, with its .data file beside it"
    with explain_damage(path, remedy=remedy, error=WeightsError):
        if file_size(path) > _MAX_BYTES:
            raise ValueError("larger than the 2 GiB that the format allows")
        data = path.read_bytes()
        check_onnx_fields(data)
        model = onnx.load_model_from_string(data)
        if _has_external_weights(model, path):
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
            data = bytes(model.SerializeToString())
    text = next((entry.value for entry in model.metadata_props if entry.key == _CONFIG_KEY), None)
    return OnnxFile(path, data, model, None if text is None else parse_config(text, path))


def _has_external_weights(model: Any, path: Path) -> bool:
    """Return whether weights are in files beside the graph, after checking that they are not elsewhere or too large."""
    entries = [entry for tensor in _tensors(model.graph) for entry in tensor.external_data]
    names = {entry.value for entry in entries if entry.key == "location"}
    if any(Path(name).name != name or "\\" in name for name in names):
        reason = "has its weights in other folders, which are not read"
        raise WeightsError(reason, where=path, remedy="export it as a single file")
    if sum(file_size(file) for file in (path, *(path.parent / name for name in names))) > _MAX_BYTES:
        raise ValueError("larger than the 2 GiB that the format allows")
    return bool(names)


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the tensors of a graph: its weights, and the constants in its nodes and inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _tensors(inner)


def import_onnx(name: str) -> Any:
    """Import a package of the extra `onnx`.

    Raises:
        DependencyError: If it is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = f"install it: {install_command('onnx')}"
        raise DependencyError(f"cannot be imported ({error})", where=name, remedy=remedy) from None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's messages about its own versions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
