"""Models whose network is not one of the registry: ONNX graphs, Caffe networks, programs and functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.alignment.templates import find_template, template_of_size
from sfplus.errors import UsageError, WeightsError, warn_user
from sfplus.networks.preprocessing import PRESETS, Preprocessing, parse_preprocessing, read_preprocessing
from sfplus.weights import CONFIG, MODEL, ONNX_MODEL, PROTOTXT
from sfplus.weights.caffe_graph import CaffeNetwork, caffe_network_from_text, read_caffe_network
from sfplus.weights.feature_network import FeatureNetwork, measure_features
from sfplus.weights.model_config import read_config
from sfplus.weights.model_folder import assign_tensors, load_tensors, to_bytes
from sfplus.weights.onnx import OnnxFile
from sfplus.weights.onnx_runtime import OnnxNetwork, guess_preprocessing
from sfplus.weights.programs import call_function, load_exported_program, load_function, load_torchscript
from sfplus.weights.state_dicts import fit_names, read_state_dict

ONNX, CAFFE = "onnx", "caffe"
"""Values of `network` in the `config.json` of folders that hold such a model."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        network: float32 on the CPU, in evaluation mode.
        config: the contents of its `config.json`.
        head: the classifier (classes, features), if the file has one.
        files: what a folder holds instead of `model.safetensors`, by name; empty for networks of the registry.
    """

    network: nn.Module
    config: dict[str, Any]
    head: Tensor | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """The input of the network."""
        return read_preprocessing(self.config)


def is_foreign_folder(folder: Path) -> bool:
    """Return whether a folder holds a model whose network is not one of the registry."""
    return (folder / ONNX_MODEL).is_file() or (folder / PROTOTXT).is_file()


def read_foreign_folder(folder: Path, input: str = "") -> LoadedModel:
    """Read a folder with `config.json` and `model.onnx`, or `deploy.prototxt` and `model.safetensors`.

    Raises:
        WeightsError: If the model is incomplete or damaged, or does not work with the input in its config.
        UsageError: If the input is not valid.
    """
    config = read_config(folder / CONFIG)
    preprocessing = _preprocessing(read_preprocessing(config), input)
    if (folder / ONNX_MODEL).is_file():
        data = _read_bytes(folder / ONNX_MODEL)
        network: nn.Module = OnnxNetwork(data, folder / ONNX_MODEL)
        return _finish(network, preprocessing, folder, config | {"network": ONNX}, {ONNX_MODEL: data})
    text = _read_bytes(folder / PROTOTXT)
    caffe = caffe_network_from_text(text, folder / PROTOTXT, preprocessing.output)
    assign_tensors(caffe, load_tensors(folder / MODEL), "the network of deploy.prototxt", folder / MODEL)
    return _finish(caffe, preprocessing, folder, config | {"network": CAFFE}, _caffe_files(caffe, text))


def read_onnx_graph(file: OnnxFile, input: str = "") -> LoadedModel:
    """Return the model of an ONNX file of another project, which onnxruntime runs.

    Args:
        file: the file.
        input: description of the input; default: that of the file's config, or a guess from shape and first nodes, with
            a warning.

    Raises:
        WeightsError: If the file cannot be run, or does not turn crops into features.
        UsageError: If the input cannot be guessed.
    """
    network, config = OnnxNetwork(file.data, file.path), file.config or {}
    stated = read_preprocessing(config) if config else guess_preprocessing(network, file.first_operators)
    if stated and not (input or config):
        warn_user(f"{file.path}: its input is assumed to be {stated}; if not, give --input")
    preprocessing = _preprocessing(stated, input, file.path)
    return _finish(network, preprocessing, file.path, {**config, "network": ONNX}, {ONNX_MODEL: file.data})


def read_caffe_graph(prototxt: Path, weights: Path, input: str = "") -> LoadedModel:
    """Read any Caffe network from its `.prototxt` and `.caffemodel`.

    Raises:
        WeightsError: If the files do not belong together or have an unknown layer, or the network does not turn crops
            into features.
    """
    guess: Preprocessing | None = None
    output = parse_preprocessing(input).output if input else ""
    network = read_caffe_network(prototxt, weights, output)
    if (shape := network.input_shape) and shape[0] == 3:
        guess = replace(PRESETS["sphereface"], template=template_of_size(shape[1], shape[2]), mirror=False)
        if not input:
            warn_user(f"{prototxt}: its input is assumed to be {guess}; if not, give --input")
    preprocessing = _preprocessing(guess, input, prototxt)
    return _finish(network, preprocessing, weights, {"network": CAFFE}, _caffe_files(network, prototxt.read_bytes()))


def read_function(name: str, input: str) -> LoadedModel:
    """Return the model that `package.module:function` makes.

    Raises:
        UsageError: If there is no such function, or the input is not described.
        WeightsError: If the function fails, or its network does not turn crops into features.
    """
    preprocessing = _preprocessing(None, input, Path(name))
    return _finish(load_function(name), preprocessing, Path(name), {"network": name})


def read_program(path: Path, input: str) -> LoadedModel:
    """Read a TorchScript file, or a `.pt2` file of `torch.export`.

    Raises:
        UsageError: If the input is not described.
        WeightsError: If the file cannot be read, or does not turn crops into features.
    """
    preprocessing = _preprocessing(None, input, path)
    network = load_exported_program(path) if path.suffix.lower() == ".pt2" else load_torchscript(path)
    kind = "torch.export" if path.suffix.lower() == ".pt2" else "torchscript"
    return _finish(network, preprocessing, path, {"network": kind})


def read_weights_of_function(path: Path, function: str, input: str) -> LoadedModel:
    """Read a state dict into the network that `package.module:function` makes.

    Raises:
        UsageError: If there is no such function, or the input is not described.
        WeightsError: If the weights do not fit this network; the message names the first tensor that differs.
    """
    preprocessing = _preprocessing(None, input, path)
    network = call_function(function)
    if not isinstance(network, nn.Module):
        reason = f"returns {type(network).__name__}, which has no weights to load"
        raise UsageError(reason, where=function, remedy="return a torch.nn.Module")
    network.to("cpu", torch.float32)
    tensors = fit_names(read_state_dict(path), network.state_dict(), path)
    assign_tensors(network, tensors, function, path)
    return _finish(network, preprocessing, path, {"network": function})


def measured_digest(model: LoadedModel) -> str:
    """Return a digest of the features that a model computes of two crops, for models whose code may change."""
    features = measure_features(model.network, model.preprocessing, "model")
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()


def _preprocessing(base: Preprocessing | None, input: str, where: Path | None = None) -> Preprocessing:
    """Return the described input; `base` is what the model says or suggests."""
    if base is None and not input:
        raise UsageError(
            "does not say which crops its network takes",
            where=where or "model", remedy=f"give --input with a preset ({', '.join(PRESETS)}) or key=value",
        )  # fmt: skip
    result = parse_preprocessing(input, base)
    if base and not result.output and base.output:
        result = replace(result, output=base.output)
    find_template(result.template)
    return result


def _finish(
    network: nn.Module | Callable[[Tensor], Any],
    preprocessing: Preprocessing,
    where: Path,
    config: dict[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> LoadedModel:
    """Wrap a network, find the length of its features, and complete its config."""
    output = "" if isinstance(network, CaffeNetwork) else preprocessing.output
    wrapped = FeatureNetwork(network, preprocessing.layout, output, where).eval()
    features = measure_features(wrapped, preprocessing, where)
    described = {"template": preprocessing.template, "preprocessing": preprocessing.to_config()}
    provenance = config.get("provenance", {"file": where.name, "layout": config["network"]})
    config = config | described | {"feature_size": features.shape[1], "width": 1.0, "provenance": provenance}
    return LoadedModel(wrapped, config, None, files or {})


def _caffe_files(network: CaffeNetwork, text: bytes) -> dict[str, bytes]:
    return {PROTOTXT: text, MODEL: to_bytes(network.state_dict())}


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from None
