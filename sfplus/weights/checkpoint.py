"""Models as folders in the Hugging Face layout: `model.safetensors` and `config.json`. Nothing here unpickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from sfplus.errors import UsageError, WeightsError
from sfplus.images import write_atomically
from sfplus.networks import create
from sfplus.weights import CONFIG, HEAD, MODEL

_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


class _Config(BaseModel):
    """What every config.json must say; more keys are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)
    network: str
    feature_size: int = Field(ge=1, le=65536)
    width: float = Field(gt=0, le=16)


def save_model(
    folder: Path,
    network: nn.Module,
    config: dict[str, Any],
    *,
    head: nn.Module | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `model.safetensors`, `config.json` and, with a head, `head.safetensors` into a folder, each atomically.

    Args:
        folder: created where missing.
        network: its state is written under the names of `state_dict()`.
        config: `network`, `feature_size` and `width` as `networks.create` takes them, and what else describes the
            model: `template`, `input`, `provenance`. Must be JSON.
        head: the classifier, kept for fine-tuning.
        dtype: storage of floating tensors, for example float16, which halves the file; default: as they are.

    Raises:
        WeightsError: config lacks a key or is not JSON.
    """
    try:
        _Config.model_validate(config)
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
    except (ValidationError, TypeError, ValueError) as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=folder / CONFIG) from None
    folder.mkdir(parents=True, exist_ok=True)
    if head is not None:
        write_atomically(folder / HEAD, to_bytes(head.state_dict(), dtype))
    write_atomically(folder / MODEL, to_bytes(network.state_dict(), dtype))
    write_atomically(folder / CONFIG, text.encode())


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model that `save_model` wrote.

    Args:
        path: the folder, or its .safetensors file with `config.json` beside it.

    Returns:
        The network, float32 on the CPU in evaluation mode, and its config.

    Raises:
        WeightsError: something is missing, damaged, unsafe or does not fit; the message names the first tensor.
    """
    file = weights_file(path)
    config = _read_config(file.with_name(CONFIG))
    try:
        with torch.device("meta"):
            network = create(config["network"], feature_size=config["feature_size"], width=config["width"])
    except UsageError as error:
        raise WeightsError(error.reason, where=file.with_name(CONFIG), remedy=error.remedy) from None
    tensors = load_tensors(file)
    expected = network.state_dict()
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            what = "is missing" if name in expected else f"does not belong to {config['network']}"
            raise WeightsError(f"tensor {name} {what}", where=file, remedy="use the config.json of this file")
        if tensors[name].shape != expected[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, {config['network']} needs {tuple(expected[name].shape)}"
            raise WeightsError(f"tensor {name} is {shapes}", where=file, remedy="use the config.json of this file")
        if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            raise WeightsError(f"tensor {name} does not hold finite floating-point numbers", where=file)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return network.eval(), config


def crop_template(config: dict[str, Any], path: Path) -> str:
    """The template of the crops that a model was trained on, as its config says.

    Raises:
        WeightsError: the config does not say it.
    """
    if not isinstance(config.get("template"), str):
        raise WeightsError(
            "does not say its template", where=path / CONFIG, remedy='add "template": "sphereface-112x96"'
        )
    return str(config["template"])


def weights_file(path: Path) -> Path:
    """The .safetensors file that a folder or file path means.

    Raises:
        WeightsError: there is none, or it is of a kind that is not read; says what to do.
    """
    if path.suffix.lower() in _PICKLES:
        remedy = "load it where you trust it with torch.load(..., weights_only=True) and save with save_model"
        raise WeightsError("is a pickle, which can run code when it is read", where=path, remedy=remedy)
    if path.suffix.lower() == ".caffemodel":
        remedy = "convert it to model.safetensors and config.json first"
        raise WeightsError("is a Caffe model", where=path, remedy=remedy)
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise WeightsError("there is no such file", where=file, remedy="give a folder written by sfplus train")
    if file.suffix.lower() != ".safetensors":
        raise WeightsError("is not a .safetensors file", where=file, remedy="give a folder written by sfplus train")
    return file


def to_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file; the same tensors give the same bytes on every device."""
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        stored[name] = tensor.clone(memory_format=torch.contiguous_format)
    return bytes(safetensors.torch.save(stored, metadata={"format": "pt"}))


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        WeightsError: it cannot be read or is not a valid safetensors file.
    """
    try:
        return dict(safetensors.torch.load_file(file))
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = f"is not a readable safetensors file ({_reason(error)})"
        raise WeightsError(reason, where=file, remedy="get the file again") from None


@dataclass(frozen=True)
class CopyReport:
    """What `copy_by_name` did, as sorted names of parameters.

    Attributes:
        loaded: copied.
        missing: of the module, not in the source: left as they were.
        unfit: in both, of different shape: left as they were.
        unused: in the source only.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unfit: tuple[str, ...]
    unused: tuple[str, ...]


@torch.no_grad()
def copy_by_name(source: Mapping[str, Tensor], module: nn.Module) -> CopyReport:
    """Start a module from other weights: every parameter whose name and shape agree is copied (`caffe train -weights`).

    Counters, such as the head's `iteration`, are not parameters and stay as they are, as in Caffe. Unlike Caffe, a
    parameter of another shape is no error: it is reported.

    Args:
        source: for example `load_tensors(folder / "model.safetensors")`.
        module: changed in place.
    """
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    both = sorted(parameters.keys() & source.keys())
    fit = [name for name in both if parameters[name].shape == source[name].shape]
    for name in fit:
        parameters[name].copy_(source[name])
    return CopyReport(
        loaded=tuple(fit),
        missing=tuple(sorted(parameters.keys() - source.keys())),
        unfit=tuple(name for name in both if name not in fit),
        unused=tuple(sorted(source.keys() - parameters.keys() - buffers.keys())),
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
        _Config.model_validate(config)
    except FileNotFoundError:
        raise WeightsError("there is no such file", where=file, remedy="keep it beside the weights") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=file) from None
    return dict(config)


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
