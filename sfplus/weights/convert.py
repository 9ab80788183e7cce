"""Conversion of models between file formats, as `sfplus convert` does it."""

from __future__ import annotations

from pathlib import Path

from sfplus.errors import UsageError, WeightsError
from sfplus.io.files import atomic_folder, check_new, file_digest, write_atomically
from sfplus.networks import DEFAULT_INPUT
from sfplus.networks.sphereface import SphereFaceNet
from sfplus.weights import HEAD
from sfplus.weights.caffe import write_caffemodel
from sfplus.weights.caffe_networks import to_caffe
from sfplus.weights.loading import LoadedModel, read_model
from sfplus.weights.model_folder import save_model, to_bytes
from sfplus.weights.onnx import to_onnx
from sfplus.weights.prototxt import write_prototxt

_UNSUPPORTED_SUFFIXES = {
    ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".prototxt", ".json", ".pb", ".h5",
}  # fmt: skip


def convert(source: Path, target: Path, network: str = "", block: str = "") -> list[str]:
    """Convert a model; existing files are not overwritten, and no incomplete file is left behind.

    Args:
        source: a path that `read_model` accepts.
        target: a `.caffemodel`, which is written together with its deploy `.prototxt`, an `.onnx`, or a folder.
        network: name of the SphereFace network; default: inferred from names and shapes.
        block: `original` or `modern`; default: that of the source.

    Returns:
        Lines that describe the model and the written files.

    Raises:
        UsageError: If the target exists or its format cannot be written.
        WeightsError: If the source is not a supported model, or the target's format cannot hold it.
    """
    suffix = target.suffix.lower()
    if suffix in _UNSUPPORTED_SUFFIXES:
        remedy = "give a folder, or a name that ends in .caffemodel or .onnx"
        raise UsageError(f"{suffix} files are not written", where=target, remedy=remedy)
    for path in [target, target.with_suffix(".prototxt")] if suffix == ".caffemodel" else [target]:
        check_new(path)
    model = read_with_digest(source, network, block)
    target.parent.mkdir(parents=True, exist_ok=True)
    write = {".caffemodel": _write_caffe, ".onnx": _write_onnx}.get(suffix, write_folder)
    return [_summary(model), *write(model, target)]


def read_with_digest(source: Path, network: str = "", block: str = "") -> LoadedModel:
    """Read a model, and add the SHA-256 of its file to the provenance in its config; see `read_model`."""
    model = read_model(source, network, block)
    if not source.is_dir() and "provenance" in model.config:
        model.config["provenance"]["sha256"] = file_digest(source)
    return model


def write_folder(model: LoadedModel, target: Path) -> list[str]:
    """Write a model as a new folder in the layout of this project; return a line that names it.

    Raises:
        UsageError: If the target already exists.
    """
    with atomic_folder(target) as part:
        save_model(part, model.network, model.config)
        if model.head is not None:
            write_atomically(part / HEAD, to_bytes({"weight": model.head}))
    return [f"model: {target}"]


def _summary(model: LoadedModel) -> str:
    config = model.config
    options = [f"{config['feature_size']} features", f"{config.get('input', DEFAULT_INPUT)} crops"]
    options += [f"{config['block']} blocks"] if "block" in config else []
    options += ["batch normalisation"] if config.get("batch_norm") else []
    options += [f"a classifier of {len(model.head)} people"] if model.head is not None else []
    count = sum(parameter.numel() for parameter in model.network.parameters())
    return f"{config['network']}: {', '.join(options)}, {count:,} parameters"


def _write_onnx(model: LoadedModel, target: Path) -> list[str]:
    data, error = to_onnx(model.network, model.config)
    write_atomically(target, data)
    return [f"model: {target} (onnxruntime agrees with torch: largest difference {error:.1e} of the largest number)"]


def _write_caffe(model: LoadedModel, target: Path) -> list[str]:
    if not isinstance(model.network, SphereFaceNet):
        reason = f"{model.config['network']} cannot be written for Caffe"
        remedy = "only SphereFace networks can be written as .caffemodel; write .onnx instead"
        raise WeightsError(reason, where=target, remedy=remedy)
    deploy, weights = to_caffe(model.network, target.stem, model.head)
    prototxt = target.with_suffix(".prototxt")
    write_prototxt(prototxt, deploy)
    write_caffemodel(target, weights)
    return [f"model: {target} with {prototxt}"]
