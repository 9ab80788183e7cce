"""ONNX files, for any batch size, that contain their config; needs the extra `onnx`."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.errors import DependencyError, WeightsError
from sfplus.networks import DEFAULT_INPUT, parse_size

TOLERANCE = 1e-4
"""Largest accepted difference of onnxruntime from torch, relative to the largest number of the features."""
_CONFIG_KEY = "sfplus.config"
_MAX_BYTES = (1 << 31) - 1  # of any protobuf message


def to_onnx(
    network: nn.Module, config: Mapping[str, Any], input_shape: tuple[int, int, int] | None = None
) -> tuple[bytes, float]:
    """Export a network to ONNX, and check that onnxruntime computes the same features for 1 and for 3 random crops.

    The input is called `crops`, (N, 3, height, width) float32 as `networks.normalize.normalize_crops` returns it, for
    any N; the output is called `features`. Shapes that are constant are numbers in the file, without which OpenCV does
    not read it, and the weights keep their names, so that `read_onnx` returns them unchanged.

    Args:
        network: any module of one input and one output, on the CPU, in evaluation mode.
        config: stored in the file; `read_onnx` returns it.
        input_shape: channels, height and width of the input; default: 3 and the `input` of the config.

    Returns:
        The bytes of the file, and the largest difference of a number, relative to the largest number.

    Raises:
        WeightsError: If the network cannot be exported, or the file computes different features.
        DependencyError: If onnx, onnxscript or onnxruntime is missing.
    """
    onnx, onnxruntime = import_onnx("onnx"), import_onnx("onnxruntime")
    import_onnx("onnxscript")
    shape = input_shape or (3, *parse_size(config.get("input", DEFAULT_INPUT)))
    crops = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network, (crops,), dynamo=True, verbose=False, optimize=False, external_data=False,
                input_names=["crops"], output_names=["features"], dynamic_shapes=({0: torch.export.Dim("N")},),
            )  # fmt: skip
            _fold_constants(program.model, set(network.state_dict()))  # type: ignore[union-attr]
    except Exception as error:  # the exporter has no common exception
        name = config.get("network", type(network).__name__)
        first_line = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{name} cannot be exported to ONNX ({first_line})") from error
    model = program.model_proto  # type: ignore[union-attr]
    for message in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        message.ClearField("metadata_props")  # paths of the source files on this machine
    onnx.helper.set_model_props(model, {_CONFIG_KEY: json.dumps(dict(config))})
    data: bytes = model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        results = [session.run(["features"], {"crops": batch.numpy()})[0] for batch in (crops[:1], crops)]
    except Exception as error:  # onnxruntime's exceptions have no common class
        first_line = str(error).strip().partition("\n")[0]
        raise WeightsError(f"onnxruntime cannot compute the exported network ({first_line})") from error
    largest_error = 0.0
    for batch, actual in zip((crops[:1], crops), results, strict=True):
        with torch.inference_mode():
            expected = network(batch).numpy()
        if actual.shape != expected.shape:
            raise WeightsError(f"ONNX computes features of shape {actual.shape}, torch {expected.shape}")
        difference = np.abs(actual - expected).max() / np.abs(expected).max().clip(1e-30)
        largest_error = max(largest_error, float(difference))
    if not largest_error <= TOLERANCE:
        reason = "the features of ONNX and torch differ"
        raise WeightsError(f"{reason} by {largest_error:.1e} of the largest number")
    return data, largest_error


def _fold_constants(model: Any, weights: set[str]) -> None:
    """Compute what depends on constants alone, except for weights.

    `optimize=True` of the exporter would also merge weights, such as those of batch normalisation, into others.
    """
    optimizer, rules = import_onnx("onnxscript.optimizer"), import_onnx("onnxscript.rewriter.rules.common")

    def has_no_weight(node: Any) -> bool:
        return all(value is None or value.name not in weights for value in node.inputs)

    optimizer.inline(model)
    for _ in range(2):  # what is folded in the first pass makes more constant
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=has_no_weight)
    _fold_slopes(model.graph)
    chosen = [rules.materialize_reshape_shape_rule, rules.reshape_reshape_rule, rules.remove_optional_bias_from_conv_rule]
    import_onnx("onnxscript.rewriter").rewrite(model, chosen)  # removes unused nodes too


def _fold_slopes(graph: Any) -> None:
    """Store the slopes of each PReLU in the shape (C, 1, 1) that ONNX needs; `read_onnx` flattens them again."""
    ir = import_onnx("onnx_ir")
    for node in graph:
        reshape = node.inputs[1].producer() if node.op_type == "PRelu" else None
        slopes = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
        if slopes is not None and slopes.is_initializer() and len(slopes.uses()) == 1:
            ones = (1,) * (len(node.inputs[0].shape) - 2)
            slopes.const_value = ir.tensor(slopes.const_value.numpy().reshape(-1, *ones), name=slopes.name)
            slopes.shape = slopes.const_value.shape
            node.replace_input_with(1, slopes)


def read_onnx(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the weights of an ONNX file by name, and the config that `to_onnx` stored in it, if there is one.

    Raises:
        WeightsError: If the file cannot be read, or its weights are in other files.
        DependencyError: If onnx is missing.
    """
    onnx = import_onnx("onnx")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than the 2 GiB that the format allows")
        model = onnx.load_model_from_string(path.read_bytes())
        tensors = {}
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                reason = "has its weights in other files, which are not read"
                raise WeightsError(reason, where=path, remedy="export it as a single file")
            tensors[tensor.name] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
        for node in model.graph.node:
            if node.op_type == "PRelu" and node.input[1] in tensors:
                tensors[node.input[1]] = tensors[node.input[1]].flatten()
        properties = model.metadata_props
        config = next((json.loads(entry.value) for entry in properties if entry.key == _CONFIG_KEY), None)
        if config is not None and not isinstance(config, dict):
            raise ValueError("its config is not a JSON object")
    except WeightsError:
        raise
    except Exception as error:  # protobuf, numpy and onnx have no common exception
        first_line = str(error).partition("\n")[0]
        reason = f"is not a readable ONNX file ({first_line})"
        raise WeightsError(reason, where=path, remedy="get the file again") from None
    return tensors, config


def import_onnx(name: str) -> Any:
    """Import a package of the extra `onnx`.

    Raises:
        DependencyError: If it is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = "install it: pip install 'sfplus[onnx]'"
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
