"""Models as folders in the Hugging Face layout: `model.safetensors` and `config.json`. Nothing here unpickles."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from sfplus.errors import UsageError, WeightsError
from sfplus.io.files import check_folder, write_atomically
from sfplus.networks.architectures import NETWORKS, build_network
from sfplus.weights import CONFIG, HEAD, MODEL

FOREIGN = {".caffemodel", ".onnx"}
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


class _Config(BaseModel):
    """What every config.json must say; more keys are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)
    network: str
    feature_size: int = Field(ge=1, le=65536)
    width: float = Field(gt=0, le=16)
    input: Literal["112x96", "112x112"] = "112x96"
    block: Literal["original", "modern"] = "original"
    batch_norm: bool = False


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
            model: `template`, `provenance`. The network's other options are added. Must be JSON.
        head: the classifier, kept for fine-tuning.
        dtype: storage of floating tensors, for example float16, which halves the file; default: as they are.

    Raises:
        WeightsError: config lacks a key or is not JSON.
        UsageError: the folder is a file, or lies below one.
    """
    check_folder(folder)
    try:
        config = config | getattr(network, "options", {})
        _Config.model_validate(config)
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
    except (ValidationError, TypeError, ValueError) as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=folder / CONFIG) from None
    folder.mkdir(parents=True, exist_ok=True)
    if head is not None:
        write_atomically(folder / HEAD, to_bytes(head.state_dict(), dtype))
    write_atomically(folder / MODEL, to_bytes(network.state_dict(), dtype))
    write_atomically(folder / CONFIG, text.encode())


def load_folder(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model that `save_model` wrote: the folder or its .safetensors file; see `sources.load_model`."""
    file = weights_file(path)
    config = _read_config(file.with_name(CONFIG))
    network = build(config, file.with_name(CONFIG))
    fit(network, load_tensors(file), config["network"], file)
    return network, config


def build(config: Mapping[str, Any], where: Path) -> nn.Module:
    """The network that a config describes, with weights that mean nothing yet; draws no random numbers.

    Raises:
        WeightsError: the config describes no network that can be made.
    """
    try:
        options = _Config.model_validate(config).model_dump(include=set(_Config.model_fields) - {"network"})
        if config["network"] in NETWORKS:
            with torch.device("meta"):
                return build_network(config["network"], **options)
        with torch.random.fork_rng(devices=[]):
            return build_network(config["network"], **options)
    except UsageError as error:
        raise WeightsError(error.reason, where=where, remedy=error.remedy) from None
    except ValidationError as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=where) from None


def fit(network: nn.Module, tensors: Mapping[str, Tensor], name: str, where: Path) -> None:
    """Give a network all its tensors, which must be what it has: the same shapes, finite floating-point numbers.

    Args:
        network: gets the tensors themselves where they are float32; afterwards in evaluation mode.
        tensors: under the names of its `state_dict()`.
        name: of the network, for messages.
        where: the file that they are from, for messages.

    Raises:
        WeightsError: names the first tensor that differs, with both shapes.
    """
    expected, remedy = network.state_dict(), "use the config.json of this file, or the right network"
    given: dict[str, Tensor] = {}
    for key in dict.fromkeys([*expected, *tensors]):
        if key not in tensors or key not in expected:
            what = "is missing" if key in expected else f"does not belong to {name}"
            raise WeightsError(f"tensor {key} {what}", where=where, remedy=remedy)
        if tensors[key].shape != expected[key].shape:
            shapes = f"{tuple(tensors[key].shape)}, {name} needs {tuple(expected[key].shape)}"
            raise WeightsError(f"tensor {key} is {shapes}", where=where, remedy=remedy)
        if tensors[key].is_floating_point() and expected[key].is_floating_point():
            given[key] = tensors[key].to(expected[key].dtype)
            if not is_finite(given[key]):
                raise WeightsError(f"tensor {key} does not hold finite floating-point numbers", where=where)
        elif tensors[key].dtype == expected[key].dtype:  # a counter
            given[key] = tensors[key]
        else:
            raise WeightsError(f"tensor {key} holds {tensors[key].dtype}, not {expected[key].dtype}", where=where)
    network.load_state_dict(given, assign=True)
    network.eval()


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating tensor has neither infinities nor NaN; one pass, no copy, a tenth of `isfinite().all()`."""
    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in tensor.aminmax())


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
        remedy = f"convert it: sfplus convert {path.name} FOLDER"
        raise WeightsError("is a pickle, which can run code when it is read", where=path, remedy=remedy)
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
