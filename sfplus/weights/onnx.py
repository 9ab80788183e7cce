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

from sfplus.errors import DependencyError, WeightsError, one_line
from sfplus.networks import DEFAULT_INPUT, parse_size

TOLERANCE = 1e-4
"""Largest accepted difference of onnxruntime from torch, relative to the largest number of the features."""
_CONFIG_KEY = "sfplus.config"
_MAX_BYTES = (1 << 31) - 1  # of any protobuf message


def to_onnx(
    network: nn.Module, config: Mapping[str, Any], input_shape: tuple[int, int, int] | None = None
) -> tuple[bytes, float]:
    """Export a network to ONNX, and check that onnxruntime computes the same features for 1 and for 3 random crops.

    The input is called `crops`, (N, 3, height, width) float32 as `networks.normalize.normalize_crops` returns it; the
    output is called `features`.

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
    except Exception as error:  # the exporter has no common exception
        raise WeightsError(f"{config['network']} cannot be exported to ONNX ({error})") from error
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


def load_onnx(path: Path) -> bytes:
    """Return the bytes of an ONNX file, including weights that are in files beside it.

    Raises:
        WeightsError: If the file cannot be read, or its weights are in other folders.
        DependencyError: If onnx is missing.
    """
    onnx = import_onnx("onnx")
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
        external = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        if not external:
            return data
        if any(Path(name).name != name for name in external):
            reason = "has its weights in other folders, which are not read"
            raise WeightsError(reason, where=path, remedy="export it as a single file")
        if sum((path.parent / name).stat().st_size for name in external) + len(data) > _MAX_BYTES:
            raise ValueError("larger than 2 GiB")
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        return bytes(model.SerializeToString())
    except WeightsError:
        raise
    except Exception as error:  # protobuf and onnx have no common exception
        reason = f"is not a readable ONNX file ({one_line(error)[:160]})"
        raise WeightsError(reason, where=path, remedy="get the file again, with its .data file beside it") from None


def read_onnx(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the weights of an ONNX file by name, and the config that `to_onnx` stored in it, if there is one.

    Raises:
        WeightsError: If the file cannot be read.
        DependencyError: If onnx is missing.
    """
    onnx = import_onnx("onnx")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than the 2 GiB that the format allows")
        model = onnx.load_model_from_string(load_onnx(path))
        tensors = {}
        for tensor in model.graph.initializer:
            tensors[tensor.name] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
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
