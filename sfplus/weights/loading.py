"""Models in all formats that sfplus reads, as a network with its config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.alignment.templates import TEMPLATE_OF_SIZE
from sfplus.errors import UsageError, WeightsError
from sfplus.networks import DEFAULT_INPUT
from sfplus.networks.sphereface import BLOCKS, NETWORKS
from sfplus.weights import CONFIG, HEAD
from sfplus.weights.caffe import read_caffemodel
from sfplus.weights.caffe_networks import from_caffe
from sfplus.weights.layouts import CONVOLUTION, ImportedWeights, from_pytorch, infer_config
from sfplus.weights.model_folder import (
    assign_tensors,
    create_from_config,
    create_uninitialised,
    is_finite,
    load_folder,
    load_tensors,
)
from sfplus.weights.onnx import read_onnx
from sfplus.weights.state_dicts import CHECKPOINT_SUFFIXES, read_state_dict

_DIRECT_SUFFIXES = {".caffemodel", ".onnx"}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        network: float32 on the CPU, in evaluation mode.
        config: the contents of its `config.json`.
        head: the classifier (classes, features), if the file has one.
    """

    network: nn.Module
    config: dict[str, Any]
    head: Tensor | None


def create_network(name: str, weights: str | os.PathLike[str], **options: Any) -> nn.Module:
    """Create a network with weights from a file or folder; it is in evaluation mode.

    `load_model` finds out the name and the options itself.

    Args:
        name: see `networks.create`.
        weights: a path that `load_model` accepts.
        options: see `networks.create`.

    Raises:
        UsageError: If no network has this name, or an option is unknown or out of range.
        WeightsError: If the weights cannot be read or are of another network; the message names the first tensor that
            differs.
    """
    network = create_uninitialised(name, **options)
    loaded, _ = load_model(Path(weights))
    if network.options != loaded.options:
        reason = f"its network has the options {loaded.options}, not {network.options}"
        raise WeightsError(reason, where=weights)
    assign_tensors(network, loaded.state_dict(), name, Path(weights))
    return network


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model that `save_model` wrote, or a SphereFace network from a `.caffemodel` or `.onnx` file.

    Args:
        path: a folder, its .safetensors file with `config.json` next to it, or a file of the other formats.

    Returns:
        The network, float32 on the CPU in evaluation mode, and its config.

    Raises:
        WeightsError: If the model is incomplete, damaged or unsafe; the message names the first tensor that differs.
    """
    if path.suffix.lower() in _DIRECT_SUFFIXES and not path.is_dir():
        model = read_model(path)
        return model.network, model.config
    return load_folder(path)


def read_model(path: Path, network: str = "", block: str = "") -> LoadedModel:
    """Read a model in any format, with its classifier.

    Args:
        path: a folder in the layout of this project, or a .safetensors, .caffemodel or .onnx file, or a checkpoint of
            clcarwin, OpenSphere or yakhyo (.pt, .pth, .pth.tar, .ckpt, .bin).
        network: name of the SphereFace network; default: inferred from names and shapes.
        block: `original` or `modern`; default: that of the format.

    Raises:
        WeightsError: If the file cannot be read or is not such a model; the message names the first tensor that
            differs.
        UsageError: If the file format, the network or the block is unknown, or contradicts the model's own config.
    """
    for key, value, choices in (("network", network, tuple(NETWORKS)), ("block", block, BLOCKS)):
        if value not in ("", *choices):
            raise UsageError(f"'{value}' is unknown", where=key, remedy=f"use one of {', '.join(choices)}")
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in {"", ".safetensors", *CHECKPOINT_SUFFIXES, *_DIRECT_SUFFIXES}:
        remedy = "give a folder, .safetensors, .caffemodel, .onnx, .pt, .pth, .pth.tar, .ckpt or .bin"
        raise UsageError("has a format that cannot be read", where=path, remedy=remedy)
    if suffix == "" or (suffix == ".safetensors" and path.with_name(CONFIG).is_file()):
        return _read_folder(path, network, block)
    if not path.is_file():
        raise WeightsError("there is no such file", where=path, remedy="check the path")
    if suffix == ".caffemodel":
        return _infer_model(from_caffe(read_caffemodel(path)), path, network, block)
    if suffix == ".onnx":
        tensors, config = read_onnx(path)
        if config is None:
            return _infer_model(from_pytorch(tensors), path, network, block)
        return _check_config(_assemble(config, ImportedWeights(tensors), path), path, network, block)
    return _infer_model(from_pytorch(read_state_dict(path)), path, network, block)


def _read_folder(path: Path, network: str, block: str) -> LoadedModel:
    loaded, config = load_folder(path)
    head = (path if path.is_dir() else path.parent) / HEAD
    tensors = load_tensors(head) if head.is_file() else {}
    return _check_config(LoadedModel(loaded, config, tensors.get("weight")), path, network, block)


def _check_config(model: LoadedModel, path: Path, network: str, block: str) -> LoadedModel:
    for requested, key, default in ((network, "network", ""), (block, "block", "original")):
        actual = model.config.get(key, default)
        if requested not in ("", actual):
            reason = f"its config says {actual}, not {requested}"
            raise UsageError(reason, where=path, remedy=f"leave out --{key}")
    return model


def _infer_model(weights: ImportedWeights, path: Path, network: str, block: str) -> LoadedModel:
    if not any(map(CONVOLUTION.fullmatch, weights.tensors)):
        names = ", ".join(list(weights.tensors)[:3]) or "nothing"
        reason = f"has no layers of a SphereFace network, but {names}"
        raise WeightsError(reason, where=path, remedy="give a SphereFace or SphereFace+ model")
    config = infer_config(weights, network, block)
    config["template"] = TEMPLATE_OF_SIZE[config.get("input", DEFAULT_INPUT)].name
    config["provenance"] = {"file": path.name, "layout": weights.layout}
    return _assemble(config, weights, path)


def _assemble(config: dict[str, Any], weights: ImportedWeights, path: Path) -> LoadedModel:
    """Create the network of a config and assign weights; biases and counters that files omit become 0."""
    network, tensors = create_from_config(config, path), dict(weights.tensors)
    for name, expected in network.state_dict().items():
        omitted_bias = name.startswith("conv") and name.endswith(".bias") and f"{name[:-4]}weight" in tensors
        if name not in tensors and (omitted_bias or name.endswith("num_batches_tracked")):
            tensors[name] = torch.zeros(expected.shape, dtype=expected.dtype)
    assign_tensors(network, tensors, config["network"], path)
    head = weights.head
    if head is None:
        return LoadedModel(network, config, None)
    if head.dim() != 2 or head.shape[1] != config["feature_size"] or not head.is_floating_point():
        reason = f"the classifier is {tuple(head.shape)} {head.dtype}, features have {config['feature_size']}"
        raise WeightsError(reason, where=path, remedy="get the file again")
    if not is_finite(head.float()):
        raise WeightsError("the classifier does not hold finite numbers", where=path, remedy="get the file again")
    return LoadedModel(network, config, head.float())
