"""Conversion of models between file formats, as `sfplus convert` does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sfplus.alignment.templates import find_template
from sfplus.errors import SfplusError, UsageError, WeightsError
from sfplus.io.files import atomic_folder, check_new, file_digest, write_atomically
from sfplus.networks.sphereface import SphereFaceNet
from sfplus.weights import CONFIG, HEAD, ONNX_MODEL
from sfplus.weights.caffe import write_caffemodel
from sfplus.weights.caffe_networks import to_caffe
from sfplus.weights.feature_network import FeatureNetwork
from sfplus.weights.foreign_models import ONNX, LoadedModel
from sfplus.weights.loading import read_model
from sfplus.weights.model_config import write_config
from sfplus.weights.model_folder import save_model, to_bytes
from sfplus.weights.onnx import describe_onnx, to_onnx
from sfplus.weights.prototxt import encode_prototxt

_UNSUPPORTED_SUFFIXES = {
    ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".prototxt", ".json", ".pb", ".h5",
}  # fmt: skip


def convert(source: Path, target: Path, network: str = "", block: str = "", *, input: str = "") -> list[str]:
    """Convert a model; existing files are not overwritten, and no incomplete file is left behind.

    A folder keeps the description of the input. It never holds a program: TorchScript, `torch.export` and the network
    of a function become ONNX.

    Args:
        source: a path that `read_model` accepts.
        target: a `.caffemodel`, which is written together with its deploy `.prototxt`, an `.onnx`, or a folder.
        network: of a file of weights, its network (see `read_model`).
        block: `original` or `modern`; default: that of the source.
        input: description of the input (see `parse_preprocessing`).

    Returns:
        Lines that describe the model and the written files.

    Raises:
        UsageError: If the target exists or its format cannot be written, or the input must be described.
        WeightsError: If the source is not a supported model, or the target's format cannot hold it.
    """
    suffix = target.suffix.lower()
    if suffix in _UNSUPPORTED_SUFFIXES:
        remedy = "give a folder, or a name that ends in .caffemodel or .onnx"
        raise UsageError(f"{suffix} files are not written", where=target, remedy=remedy)
    check_new(target)
    model = read_with_digest(source, network, block, input=input)
    target.parent.mkdir(parents=True, exist_ok=True)
    write = {".caffemodel": _write_caffe, ".onnx": _write_onnx}.get(suffix, write_folder)
    return [_summary(model), *write(model, target)]


def read_with_digest(source: Path, network: str = "", block: str = "", *, input: str = "") -> LoadedModel:
    """Read a model, and add the SHA-256 of its file to the provenance in its config; see `read_model`."""
    model = read_model(source, network, block, input=input)
    if source.is_file() and "provenance" in model.config:
        model.config["provenance"]["sha256"] = file_digest(source)
    return model


def write_folder(model: LoadedModel, target: Path) -> list[str]:
    """Write a model as a new folder in the layout of this project; return a line that names it.

    Raises:
        UsageError: If the target already exists.
        WeightsError: If the model is a program that cannot be exported to ONNX.
    """
    if isinstance(model.network, FeatureNetwork) and not model.files:
        model = _export_program(model)
    with atomic_folder(target) as part:
        if model.files:
            for name, data in model.files.items():
                write_atomically(part / name, data)
            write_config(part / CONFIG, model.config)
        else:
            save_model(part, model.network, model.config)
        if model.head is not None:
            write_atomically(part / HEAD, to_bytes({"weight": model.head}))
    return [f"model: {target}"]


def _export_program(model: LoadedModel) -> LoadedModel:
    """Return the ONNX graph of a program or function, whose input is (N, 3, H, W)."""
    data, _, config = _export_graph(model)
    return replace(model, config=config, files={ONNX_MODEL: data})


def _export_graph(model: LoadedModel) -> tuple[bytes, float, dict[str, Any]]:
    """Return an ONNX graph with the config that describes it, and its largest difference from torch."""
    template = find_template(model.preprocessing.template)
    preprocessing = replace(model.preprocessing, layout="nchw", output="").to_config()
    config = model.config | {"network": ONNX, "preprocessing": preprocessing}
    data, error = to_onnx(model.network, config, (3, template.height, template.width))
    return data, error, config


def _summary(model: LoadedModel) -> str:
    config = model.config
    size = find_template(model.preprocessing.template).size
    options = [f"{config['feature_size']} features", f"{config.get('input', size)} crops"]
    options += [f"{config['block']} blocks"] if "block" in config else []
    options += ["batch normalisation"] if config.get("batch_norm") else []
    options += [f"a classifier of {len(model.head)} people"] if model.head is not None else []
    count = sum(parameter.numel() for parameter in model.network.parameters())
    options += [f"{count:,} parameters"] if count else []
    return f"{config['network']}: {', '.join(options)}"


def _write_onnx(model: LoadedModel, target: Path) -> list[str]:
    if ONNX_MODEL in model.files:
        write_atomically(target, describe_onnx(model.files[ONNX_MODEL], model.config))
        return [f"model: {target} (the same graph, with the description of its input)"]
    if isinstance(model.network, FeatureNetwork):
        data, error, _ = _export_graph(model)
    else:
        data, error = to_onnx(model.network, model.config)
    write_atomically(target, data)
    return [f"model: {target} (onnxruntime agrees with torch: largest difference {error:.1e} of the largest number)"]


def _write_caffe(model: LoadedModel, target: Path) -> list[str]:
    if not isinstance(model.network, SphereFaceNet):
        reason = f"{model.config['network']} cannot be written for Caffe"
        remedy = "only SphereFace networks can be written as .caffemodel; write .onnx instead"
        raise WeightsError(reason, where=target, remedy=remedy)
    deploy, weights = to_caffe(model.network, target.stem, model.head)
    prototxt, text = target.with_suffix(".prototxt"), encode_prototxt(deploy)
    is_written = prototxt.is_file() and prototxt.read_bytes() == text  # by a killed run, or by the user
    if not is_written:
        check_new(prototxt)
        write_atomically(prototxt, text)
    try:
        write_caffemodel(target, weights)
    except SfplusError:
        if not is_written:
            prototxt.unlink(missing_ok=True)
        raise
    return [f"model: {target} with {prototxt}"]
