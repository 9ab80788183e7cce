"""ONNX: one file, of any batch size, that carries its config; needs the extra `onnx`."""

from __future__ import annotations

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
from sfplus.networks.sphereface import INPUTS

TOLERANCE = 1e-4
"""How far onnxruntime may be from torch, relative to the largest number of the features."""
_KEY = "sfplus.config"
_MAX_BYTES = (1 << 31) - 1  # of any protobuf message


def to_onnx(network: nn.Module, config: Mapping[str, Any]) -> tuple[bytes, float]:
    """A network as an ONNX file, already checked: onnxruntime makes the same features of 1 and of 3 random crops.

    Its input is `crops`, (N, 3, height, width) float32 as `networks.to_input` makes it, its output `features`.

    Args:
        network: on the CPU, in evaluation mode.
        config: kept in the file, so that `read_onnx` gives it back.

    Returns:
        The bytes of the file, and the largest difference of a number, relative to the largest number.

    Raises:
        WeightsError: the network cannot be exported, or the file computes something else.
        DependencyError: onnx, onnxscript or onnxruntime is missing.
    """
    onnx, ort = _module("onnx"), _module("onnxruntime")
    _module("onnxscript")
    height, width = INPUTS[config.get("input", "112x96")]
    draw = torch.Generator().manual_seed(0)
    crops = torch.rand(3, 3, height, width, generator=draw) * 2 - 1
    try:
        with _quiet():
            program = torch.onnx.export(
                network, (crops,), dynamo=True, verbose=False, optimize=False, external_data=False,
                input_names=["crops"], output_names=["features"], dynamic_shapes=({0: torch.export.Dim("N")},),
            )  # fmt: skip
    except Exception as error:  # the exporter has no common exception
        raise WeightsError(f"{config['network']} cannot be exported to ONNX ({error})") from error
    model = program.model_proto  # type: ignore[union-attr]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")  # where each node was in the source files of this machine
    onnx.helper.set_model_props(model, {_KEY: json.dumps(dict(config))})
    data: bytes = model.SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (crops[:1], crops):
        with torch.inference_mode():
            expected = network(batch).numpy()
        found = session.run(["features"], {"crops": batch.numpy()})[0]
        if found.shape != expected.shape:
            raise WeightsError(f"ONNX makes features of shape {found.shape}, torch {expected.shape}")
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max().clip(1e-30)))
    if not worst <= TOLERANCE:
        raise WeightsError(f"ONNX makes other features than torch: they differ by {worst:.1e} of the largest number")
    return data, worst


def read_onnx(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The weights in an ONNX file, by name, and the config that `to_onnx` left in it.

    Raises:
        WeightsError: it cannot be read, or its weights lie in other files.
        DependencyError: onnx is missing.
    """
    onnx = _module("onnx")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than the 2 GiB that the format allows")
        model = onnx.load_model_from_string(path.read_bytes())
        tensors = {}
        for item in model.graph.initializer:
            if item.data_location == onnx.TensorProto.EXTERNAL or item.external_data:
                reason = "has its weights in other files, which are not read"
                raise WeightsError(reason, where=path, remedy="export it as a single file")
            tensors[item.name] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(item)))
        config = next((json.loads(item.value) for item in model.metadata_props if item.key == _KEY), None)
        if config is not None and not isinstance(config, dict):
            raise ValueError("its config is no table")
    except WeightsError:
        raise
    except Exception as error:  # protobuf, numpy and onnx each have their own
        reason = f"is not a readable ONNX file ({str(error).partition(chr(10))[0]})"
        raise WeightsError(reason, where=path, remedy="get the file again") from None
    return tensors, config


def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = "install it: pip install 'sfplus[onnx]'"
        raise DependencyError(f"cannot be imported ({error})", where=name, remedy=remedy) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own versions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
