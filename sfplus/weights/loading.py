"""Models of every kind that sfplus reads, as a network with its config."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError, WeightsError
from sfplus.networks.architectures import BLOCKS, NETWORKS
from sfplus.weights import CONFIG, HEAD
from sfplus.weights.layouts import CONVOLUTION, Layout, describe, recognise
from sfplus.weights.model_folder import FOREIGN, build, fit, is_finite, load_folder, load_tensors

PICKLES = {".pt", ".pth"}
_TEMPLATES = {"112x96": "sphereface-112x96", "112x112": "arcface-112x112"}


@dataclass(frozen=True)
class Source:
    """A model.

    Attributes:
        network: float32 on the CPU, in evaluation mode.
        config: for its `config.json`.
        head: the classifier (classes, features), where the source has one.
    """

    network: nn.Module
    config: dict[str, Any]
    head: Tensor | None


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model that `save_model` wrote, or a SphereFace network from a `.caffemodel` or `.onnx` file.

    Args:
        path: the folder, its .safetensors file with `config.json` beside it, or a file of the other kinds.

    Returns:
        The network, float32 on the CPU in evaluation mode, and its config.

    Raises:
        WeightsError: something is missing, damaged, unsafe or does not fit; the message names the first tensor.
    """
    if path.suffix.lower() in FOREIGN and not path.is_dir():
        source = read_source(path)
        return source.network, source.config
    return load_folder(path)


def load_weights(network: nn.Module, path: str | os.PathLike[str], name: str) -> None:
    """Give a network the weights of a file or folder, any that `load_model` reads; it is then in evaluation mode.

    Raises:
        WeightsError: as `load_model`; the message names the first tensor that differs.
    """
    loaded, _ = load_model(Path(path))
    options = getattr(network, "options", {}), getattr(loaded, "options", {})
    if options[0] != options[1]:
        raise WeightsError(f"its network has the options {options[1]}, not {options[0]}", where=path)
    fit(network, loaded.state_dict(), name, Path(path))


def read_source(path: Path, network: str = "", block: str = "") -> Source:
    """Read a model: our folder or .safetensors, .caffemodel, .onnx, .pt and .pth of clcarwin or OpenSphere.

    Args:
        path: the file or folder.
        network: name of the SphereFace network, where names and shapes should not decide.
        block: `original` or `modern`, where the file should not decide.

    Raises:
        WeightsError: the file cannot be read or is no such model; the message names the first tensor that differs.
        UsageError: the kind of file, the network or the block is unknown, or contradicts the model's own config.
    """
    for key, value, known in (("network", network, NETWORKS), ("block", block, BLOCKS)):
        if value not in ("", *known):
            raise UsageError(f"'{value}' is unknown", where=key, remedy=f"use one of {', '.join(known)}")
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in {"", ".safetensors", *PICKLES, *FOREIGN}:
        remedy = "give a folder, .safetensors, .caffemodel, .onnx, .pt or .pth"
        raise UsageError("is of no kind that is read", where=path, remedy=remedy)
    if suffix == "" or (suffix == ".safetensors" and path.with_name(CONFIG).is_file()):
        return _from_folder(path, network, block)
    if not path.is_file():
        raise WeightsError("there is no such file", where=path, remedy="check the path")
    if suffix == ".caffemodel":
        from sfplus.weights.caffe import read_caffemodel
        from sfplus.weights.caffe_networks import from_caffe

        return _from_layout(from_caffe(read_caffemodel(path)), path, network, block)
    if suffix == ".onnx":
        from sfplus.weights.onnx import read_onnx

        tensors, config = read_onnx(path)
        if config is None:
            return _from_layout(recognise(tensors), path, network, block)
        return _check(_assemble(config, Layout(tensors), path), path, network, block)
    return _from_layout(recognise(read_pickle(path) if suffix in PICKLES else load_tensors(path)), path, network, block)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`, read with `weights_only=True`; there is no other way.

    A checkpoint that holds it under `model`, `backbone` or `state_dict` is opened.

    Raises:
        WeightsError: the file is damaged, would run code, or holds no state dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on old protocols
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen different classes
        reason = f"is no state dict that can be read without running code ({str(error).strip().partition(chr(10))[0]})"
        remedy = "save its state_dict() where you trust it"
        raise WeightsError(reason, where=path, remedy=remedy) from None
    for key in ("model", "backbone", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError("holds no state dict", where=path, remedy="save the network's state_dict()")
    for name, tensor in found.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise WeightsError(f"tensor {name} is not stored whole", where=path, remedy="get the file again")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _from_folder(path: Path, network: str, block: str) -> Source:
    loaded, config = load_folder(path)
    head = (path if path.is_dir() else path.parent) / HEAD
    tensors = load_tensors(head) if head.is_file() else {}
    return _check(Source(loaded, config, tensors.get("weight")), path, network, block)


def _check(source: Source, path: Path, network: str, block: str) -> Source:
    for asked, key, usual in ((network, "network", ""), (block, "block", "original")):
        says = source.config.get(key, usual)
        if asked not in ("", says):
            raise UsageError(f"its config says {says}, not {asked}", where=path, remedy=f"leave out --{key}")
    return source


def _from_layout(layout: Layout, path: Path, network: str, block: str) -> Source:
    if not any(map(CONVOLUTION.fullmatch, layout.tensors)):
        reason = f"has no layers of a SphereFace network, but {', '.join(list(layout.tensors)[:3]) or 'nothing'}"
        raise WeightsError(reason, where=path, remedy="give a SphereFace or SphereFace+ model")
    config = describe(layout, network, block)
    config["template"] = _TEMPLATES[config.get("input", "112x96")]
    config["provenance"] = {"file": path.name, "layout": layout.name}
    return _assemble(config, layout, path)


def _assemble(config: dict[str, Any], layout: Layout, path: Path) -> Source:
    """The network of a config with weights; what files leave out because it is 0 is filled in."""
    network, tensors = build(config, path), dict(layout.tensors)
    for name, expected in network.state_dict().items():
        convolution = name.startswith("conv") and name.endswith(".bias") and f"{name[:-4]}weight" in tensors
        if name not in tensors and (convolution or name.endswith("num_batches_tracked")):
            tensors[name] = torch.zeros(expected.shape, dtype=expected.dtype)
    fit(network, tensors, config["network"], path)
    head = layout.head
    if head is None:
        return Source(network, config, None)
    if head.dim() != 2 or head.shape[1] != config["feature_size"] or not head.is_floating_point():
        reason = f"the classifier is {tuple(head.shape)} {head.dtype}, features have {config['feature_size']}"
        raise WeightsError(reason, where=path, remedy="get the file again")
    if not is_finite(head.float()):
        raise WeightsError("the classifier does not hold finite numbers", where=path, remedy="get the file again")
    return Source(network, config, head.float())
