"""Models in all formats that sfplus reads, as a network with its config."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sfplus.alignment.templates import TEMPLATE_OF_SIZE, find_template
from sfplus.errors import UsageError, WeightsError
from sfplus.io.console import first_names
from sfplus.networks import DEFAULT_INPUT, is_function
from sfplus.networks.preprocessing import parse_preprocessing, read_preprocessing
from sfplus.networks.sphereface import BLOCKS, NETWORKS
from sfplus.weights import CONFIG, HEAD
from sfplus.weights.caffe import read_caffemodel
from sfplus.weights.caffe_networks import from_caffe
from sfplus.weights.foreign_models import (
    ONNX,
    LoadedModel,
    is_foreign_folder,
    read_caffe_graph,
    read_foreign_folder,
    read_function,
    read_onnx_graph,
    read_program,
    read_weights_of_function,
)
from sfplus.weights.layouts import CONVOLUTION, ImportedWeights, from_pytorch, infer_config
from sfplus.weights.model_config import encode_config, read_config
from sfplus.weights.model_folder import (
    assign_tensors,
    create_uninitialised,
    create_with_tensors,
    is_finite,
    load_folder,
    load_tensors,
)
from sfplus.weights.onnx import read_onnx
from sfplus.weights.programs import is_torchscript
from sfplus.weights.state_dicts import CHECKPOINT_SUFFIXES, read_state_dict

_SUFFIXES = {"", ".safetensors", ".onnx", ".caffemodel", ".pt2", ".pkl", *CHECKPOINT_SUFFIXES}


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
    """Load a model that `read_model` accepts without further description.

    Args:
        path: a folder, its .safetensors file with `config.json` next to it, or a file of another format.

    Returns:
        The network, float32 on the CPU in evaluation mode, and its config.

    Raises:
        WeightsError: If the model is incomplete, damaged or unsafe; the message names the first tensor that differs.
        UsageError: If the network or its input must be named.
    """
    model = read_model(path)
    return model.network, model.config


def read_model(path: Path, network: str = "", block: str = "", *, input: str = "") -> LoadedModel:
    """Read a model in any format, with its classifier.

    Args:
        path: a folder of `save_model` or `convert`; a .caffemodel, .onnx, .safetensors, .pt, .pth or .ckpt file, also
            TorchScript, or .pt2 of `torch.export`; or, as a path, `package.module:function`.
        network: what a file of weights does not say: the name of a SphereFace network (default: inferred from names
            and shapes), the `.prototxt` of a .caffemodel (default: the one beside it), or `package.module:function`,
            which returns the network. Of a model that was trained with a network of the user's own, this function must
            be named: what its config.json names is not imported.
        block: `original` or `modern`, of a SphereFace network; default: that of the format.
        input: description of the input (see `parse_preprocessing`); default: what the model says, or a guess, with a
            warning.

    Raises:
        WeightsError: If the file cannot be read or is not such a model; the message names the first tensor that
            differs.
        UsageError: If the file format, the network or the block is unknown, or contradicts the model's own config; or
            if the input must be described.
    """
    if is_function(str(path)):
        return read_function(str(path), input)
    if network and not (is_function(network) or network.endswith(".prototxt")):
        _check_choice("network", network, tuple(NETWORKS))
    _check_choice("block", block, ("", *BLOCKS))
    if not path.exists():
        raise UsageError("there is no such file or folder", where=path, remedy="check the path")
    model = _read(path, network, block, input)
    return model if model.files else _describe_input(model, input)


def _read(path: Path, network: str, block: str, input: str) -> LoadedModel:
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in _SUFFIXES:
        remedy = "give a folder, .safetensors, .caffemodel, .onnx, .pt, .pth, .pth.tar, .ckpt, .bin or .pt2"
        raise UsageError("has a format that cannot be read", where=path, remedy=remedy)
    if is_function(network) and suffix in {".safetensors", ".pkl", *CHECKPOINT_SUFFIXES} and not _describes_code(path):
        return read_weights_of_function(path, network, input)
    if suffix == "" and is_foreign_folder(path):
        return read_foreign_folder(path, input)
    if suffix == "" or (suffix == ".safetensors" and path.with_name(CONFIG).is_file()):
        return _read_folder(path, network, block)
    if suffix == ".caffemodel":
        return _read_caffe(path, network, block, input)
    if suffix == ".onnx":
        return _read_onnx(path, network, block, input)
    if suffix == ".pt2" or (suffix in CHECKPOINT_SUFFIXES and is_torchscript(path)):
        return read_program(path, input)
    return _infer_model(from_pytorch(read_state_dict(path)), path, network, block)


def _describes_code(path: Path) -> bool:
    """Return whether a config.json beside a file of weights says that its network is code of the user's own."""
    file = path.with_name(CONFIG)
    return path.suffix.lower() == ".safetensors" and file.is_file() and is_function(read_config(file)["network"])


def _read_caffe(path: Path, network: str, block: str, input: str) -> LoadedModel:
    """Read a SphereFace network, or any network if its prototxt is named or beside it."""
    if network.endswith(".prototxt"):
        return read_caffe_graph(Path(network), path, input)
    prototxt = path.with_suffix(".prototxt")
    try:
        return _infer_model(from_caffe(read_caffemodel(path)), path, network, block)
    except WeightsError:
        if network or not prototxt.is_file():
            raise
        return read_caffe_graph(prototxt, path, input)


def _read_onnx(path: Path, network: str, block: str, input: str) -> LoadedModel:
    """Read an exported network of this project, a SphereFace network by its weights, or any other graph."""
    file = read_onnx(path)
    network_in_config = "" if file.config is None else file.config["network"]
    if network_in_config == ONNX or is_function(network_in_config):  # the graph needs no code of the user's own
        return read_onnx_graph(file, input)
    if file.config is not None:
        weights = ImportedWeights(file.tensors())
        return _check_config(_assemble(file.config, weights, path), path, network, block)
    weights = from_pytorch(file.tensors())
    if network or any(map(CONVOLUTION.fullmatch, weights.tensors)):
        return _infer_model(weights, path, network, block)
    return read_onnx_graph(file, input)


def _describe_input(model: LoadedModel, input: str) -> LoadedModel:
    """Set the input of a network of the registry, if it is described."""
    preprocessing = read_preprocessing(model.config)
    if not input:
        return model
    preprocessing = parse_preprocessing(input, preprocessing)
    find_template(preprocessing.template)
    described = {"template": preprocessing.template, "preprocessing": preprocessing.to_config()}
    return replace(model, config=model.config | described)


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        remedy = f"use one of {', '.join(filter(None, choices))}"
        if key == "network":
            remedy += "; a .prototxt; or package.module:function"
        raise UsageError(f"'{value}' is unknown", where=key, remedy=remedy)


def _read_folder(path: Path, network: str, block: str) -> LoadedModel:
    loaded, config = load_folder(path, network if is_function(network) else "")
    head = (path if path.is_dir() else path.parent) / HEAD
    tensors = load_tensors(head) if head.is_file() else {}
    return _check_config(LoadedModel(loaded, config, tensors.get("weight")), path, network, block)


def _check_config(model: LoadedModel, path: Path, network: str, block: str) -> LoadedModel:
    network = "" if is_function(network) and is_function(model.config["network"]) else network  # may have moved
    for requested, key, default in ((network, "network", ""), (block, "block", "original")):
        actual = model.config.get(key, default)
        if requested not in ("", actual):
            reason = f"its config says {actual}, not {requested}"
            raise UsageError(reason, where=path, remedy=f"leave out --{key}")
    return model


def _infer_model(weights: ImportedWeights, path: Path, network: str, block: str) -> LoadedModel:
    if not any(map(CONVOLUTION.fullmatch, weights.tensors)):
        names = first_names(list(weights.tensors)) or "nothing"
        reason = f"has no layers of a SphereFace network, but {names}"
        raise WeightsError(reason, where=path, remedy="give a SphereFace or SphereFace+ model")
    config = infer_config(weights, network, block)
    config["template"] = TEMPLATE_OF_SIZE[config.get("input", DEFAULT_INPUT)].name
    config["provenance"] = {"file": path.name, "layout": weights.layout}
    encode_config(config, path)  # what the shapes suggest may be no network
    return _assemble(config, weights, path)


def _assemble(config: dict[str, Any], weights: ImportedWeights, path: Path) -> LoadedModel:
    """Create the network of a config and assign weights; biases and counters that files omit become 0."""
    network, head = create_with_tensors(config, weights.tensors, path, path, fill=True), weights.head
    if head is None:
        return LoadedModel(network, config, None)
    if head.dim() != 2 or head.shape[1] != config["feature_size"] or not head.is_floating_point():
        reason = f"the classifier is {tuple(head.shape)} {head.dtype}, features have {config['feature_size']}"
        raise WeightsError(reason, where=path, remedy="get the file again")
    if not is_finite(head.float()):
        raise WeightsError("the classifier does not hold finite numbers", where=path, remedy="get the file again")
    return LoadedModel(network, config, head.float())
