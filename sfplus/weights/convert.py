"""`sfplus convert`: a model from one kind of file to another."""

from __future__ import annotations

from pathlib import Path

from sfplus.errors import UsageError, WeightsError
from sfplus.io.files import atomic_folder, check_new, file_digest, write_atomically
from sfplus.networks.sphereface import SphereFaceNet
from sfplus.weights import HEAD
from sfplus.weights.loading import Source, read_source
from sfplus.weights.model_folder import save_model, to_bytes

_FILES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".prototxt", ".json", ".pb", ".h5"}


def convert(source: Path, target: Path, network: str = "", block: str = "") -> list[str]:
    """Convert a model; nothing that exists is overwritten, and what is written is whole.

    Args:
        source: what `read_source` reads.
        target: `.caffemodel` (with its deploy `.prototxt` beside), `.onnx`, or else a folder in our layout.
        network: name of the SphereFace network, where names and shapes should not decide.
        block: `original` or `modern`, where the file should not decide.

    Returns:
        Lines that say what was read and written.

    Raises:
        UsageError: the target exists or is of a kind that is not written.
        WeightsError: the source is no such model, or the target's kind cannot hold it.
    """
    suffix = target.suffix.lower()
    targets = [target, target.with_suffix(".prototxt")] if suffix == ".caffemodel" else [target]
    if suffix in _FILES:
        remedy = "give a folder, or a name that ends in .caffemodel or .onnx"
        raise UsageError(f"{suffix} files are not written", where=target, remedy=remedy)
    for path in targets:
        check_new(path)
    model = read_source(source, network, block)
    if not source.is_dir() and "provenance" in model.config:
        model.config["provenance"]["sha256"] = file_digest(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    write = {".caffemodel": _write_caffe, ".onnx": _write_onnx}.get(suffix, _write_folder)
    return [_what(model), *write(model, target)]


def _what(model: Source) -> str:
    config = model.config
    options = [f"{config['feature_size']} features", f"{config.get('input', '112x96')} crops"]
    options += [f"{config['block']} blocks"] if "block" in config else []
    options += ["batch normalisation"] if config.get("batch_norm") else []
    options += [f"a classifier of {len(model.head)} people"] if model.head is not None else []
    count = sum(parameter.numel() for parameter in model.network.parameters())
    return f"{config['network']}: {', '.join(options)}, {count:,} parameters"


def _write_folder(model: Source, target: Path) -> list[str]:
    with atomic_folder(target) as part:
        save_model(part, model.network, model.config)
        if model.head is not None:
            write_atomically(part / HEAD, to_bytes({"weight": model.head}))
    return [f"model: {target}"]


def _write_onnx(model: Source, target: Path) -> list[str]:
    from sfplus.weights.onnx import to_onnx

    data, worst = to_onnx(model.network, model.config)
    write_atomically(target, data)
    return [f"model: {target} (onnxruntime agrees with torch: largest difference {worst:.1e} of the largest number)"]


def _write_caffe(model: Source, target: Path) -> list[str]:
    from sfplus.weights.caffe import write_caffemodel
    from sfplus.weights.caffe_networks import to_caffe
    from sfplus.weights.prototxt import write_prototxt

    if not isinstance(model.network, SphereFaceNet):
        reason = f"{model.config['network']} cannot be written for Caffe"
        raise WeightsError(reason, where=target, remedy="Caffe files hold SphereFace networks; write .onnx instead")
    deploy, weights = to_caffe(model.network, target.stem, model.head)
    prototxt = target.with_suffix(".prototxt")
    write_prototxt(prototxt, deploy)
    write_caffemodel(target, weights)
    return [f"model: {target} with {prototxt}"]
