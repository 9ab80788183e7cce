"""Models as folders in the Hugging Face layout: `model.safetensors` and `config.json`. Nothing is unpickled."""

from __future__ import annotations

import json
import math
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
from sfplus.io.files import check_folder, write_atomically
from sfplus.networks import DEFAULT_INPUT, create, is_library_network, network_options
from sfplus.weights import CONFIG, HEAD, MODEL
from sfplus.weights.feature_network import FeatureNetwork

_PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


class _Config(BaseModel):
    """The keys of config.json that define the network; further keys are kept unchanged."""

    model_config = ConfigDict(extra="allow", strict=True)
    network: str
    feature_size: int = Field(ge=1, le=65536)
    width: float = Field(1.0, gt=0, le=16)
    input: str = DEFAULT_INPUT
    block: str = "original"
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
        folder: created if missing.
        network: its state is written under the names of `state_dict()`.
        config: `network`, `feature_size` and `width` as `networks.create` accepts them, and any description of the
            model, such as `template` and `provenance`. The network's other options are added. Must be JSON.
        head: the classifier, kept for fine-tuning.
        dtype: storage type of floating-point tensors, for example float16, which halves the file; default: unchanged.

    Raises:
        WeightsError: If config lacks a key or is not JSON, or the network is not one of sfplus: `convert` writes its
            folder.
        UsageError: If the folder is a file or below a file.
    """
    check_folder(folder)
    if isinstance(network, FeatureNetwork):
        remedy = "use the folder that sfplus convert writes"
        raise WeightsError("is not a network of sfplus", where=str(config.get("network")), remedy=remedy)
    text = _encode_config(folder / CONFIG, config | getattr(network, "options", {}))
    folder.mkdir(parents=True, exist_ok=True)
    if head is not None:
        write_atomically(folder / HEAD, to_bytes(head.state_dict(), dtype))
    write_atomically(folder / MODEL, to_bytes(network.state_dict(), dtype))
    write_atomically(folder / CONFIG, text)


def write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write a `config.json` atomically.

    Raises:
        WeightsError: If the config lacks a key or is not JSON.
    """
    write_atomically(file, _encode_config(file, config))


def load_folder(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model that `save_model` wrote, from its folder or .safetensors file; see `loading.load_model`."""
    file = weights_file(path)
    config = read_config(file.with_name(CONFIG))
    network = create_from_config(config, file.with_name(CONFIG))
    assign_tensors(network, load_tensors(file), config["network"], file)
    return network, config


def read_config(file: Path) -> dict[str, Any]:
    """Read the `config.json` of a model.

    Raises:
        WeightsError: If there is none, or it does not describe a model.
    """
    try:
        config = json.loads(file.read_bytes())
        _Config.model_validate(config)
    except FileNotFoundError:
        raise WeightsError("there is no such file", where=file, remedy="keep it next to the weights") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=file) from None
    return dict(config)


def create_from_config(config: Mapping[str, Any], where: Path) -> nn.Module:
    """Create the network that a config describes, with uninitialised weights; no random numbers are drawn.

    Raises:
        WeightsError: If the config does not describe a network; `where` is the file in the message.
    """
    try:
        checked = _Config.model_validate(config)
        options = checked.model_dump(include=set(network_options(checked.network)))
        return create_uninitialised(checked.network, **options)
    except UsageError as error:
        raise WeightsError(error.reason, where=where, remedy=error.remedy) from None
    except ValidationError as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=where) from None


def create_uninitialised(name: str, **options: Any) -> nn.Module:
    """Create a network for `assign_tensors`, without drawing random numbers; see `networks.create`."""
    if is_library_network(name):  # may have buffers that are computed, not loaded
        with torch.random.fork_rng(devices=[]):
            return create(name, **options)
    with torch.device("meta"):
        return create(name, **options)


def assign_tensors(network: nn.Module, tensors: Mapping[str, Tensor], name: str, where: Path) -> None:
    """Replace all tensors of a network, after checking their names and shapes and that they are finite.

    Args:
        network: takes over tensors that are float32 without a copy; is in evaluation mode afterwards.
        tensors: under the names of `network.state_dict()`.
        name: name of the network, for messages.
        where: the file of the tensors, for messages.

    Raises:
        WeightsError: If a tensor differs; the message names the first one, with both shapes.
    """
    expected, remedy = network.state_dict(), "use the config.json of this file, or the right network"
    checked: dict[str, Tensor] = {}
    for key in dict.fromkeys([*expected, *tensors]):
        if key not in tensors or key not in expected:
            reason = "is missing" if key in expected else f"does not belong to {name}"
            raise WeightsError(f"tensor {key} {reason}", where=where, remedy=remedy)
        if tensors[key].shape != expected[key].shape:
            shapes = f"{tuple(tensors[key].shape)}, {name} needs {tuple(expected[key].shape)}"
            raise WeightsError(f"tensor {key} is {shapes}", where=where, remedy=remedy)
        if tensors[key].is_floating_point() and expected[key].is_floating_point():
            checked[key] = tensors[key].to(expected[key].dtype)
            if not is_finite(checked[key]):
                raise WeightsError(f"tensor {key} does not hold finite floating-point numbers", where=where)
        elif tensors[key].dtype == expected[key].dtype:  # a counter
            checked[key] = tensors[key]
        else:
            raise WeightsError(f"tensor {key} holds {tensors[key].dtype}, not {expected[key].dtype}", where=where)
    network.load_state_dict(checked, assign=True)
    network.eval()


def is_finite(tensor: Tensor) -> bool:
    """Return whether a floating-point tensor has no infinity and no NaN.

    One pass without a copy, which takes a tenth of the time of `isfinite().all()`.
    """
    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in tensor.aminmax())


def weights_file(path: Path) -> Path:
    """Return the .safetensors file of a model, given its folder or the file itself.

    Raises:
        WeightsError: If it does not exist or is not a .safetensors file.
    """
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        remedy = f"convert it: sfplus convert {path.name} FOLDER"
        raise WeightsError("is a pickle, which can run code when it is read", where=path, remedy=remedy)
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise WeightsError("there is no such file", where=file, remedy="give a folder written by sfplus train")
    if file.suffix.lower() != ".safetensors":
        raise WeightsError("is not a .safetensors file", where=file, remedy="give a folder written by sfplus train")
    return file


def to_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> bytes:
    """Return the bytes of a safetensors file; equal tensors give equal bytes, in any memory format and on any device.

    Args:
        tensors: the tensors by name.
        dtype: storage type of floating-point tensors; default: unchanged.
    """
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        stored[name] = tensor.clone(memory_format=torch.contiguous_format)
    return bytes(safetensors.torch.save(stored, metadata={"format": "pt"}))


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file onto the CPU.

    Raises:
        WeightsError: If the file cannot be read or is not a valid safetensors file.
    """
    try:
        return dict(safetensors.torch.load_file(file))
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = f"is not a readable safetensors file ({_reason(error)})"
        raise WeightsError(reason, where=file, remedy="get the file again") from None


@dataclass(frozen=True)
class CopyReport:
    """The result of `copy_by_name`, as sorted names of parameters.

    Attributes:
        loaded: parameters that were copied.
        missing: parameters of the module that the source does not have; unchanged.
        mismatched: parameters of different shape in both; unchanged.
        unused: tensors that only the source has.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unused: tuple[str, ...]


@torch.no_grad()
def copy_by_name(source: Mapping[str, Tensor], module: nn.Module) -> CopyReport:
    """Copy the parameters whose name and shape agree into a module, to start training from them.

    This is `caffe train -weights`: counters, such as the head's `iteration`, are not parameters and are not copied.
    Unlike in Caffe, a parameter of a different shape is not an error, but reported.

    Args:
        source: for example `load_tensors(folder / "model.safetensors")`.
        module: changed in place.
    """
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    common = sorted(parameters.keys() & source.keys())
    matching = [name for name in common if parameters[name].shape == source[name].shape]
    for name in matching:
        parameters[name].copy_(source[name])
    return CopyReport(
        loaded=tuple(matching),
        missing=tuple(sorted(parameters.keys() - source.keys())),
        mismatched=tuple(name for name in common if name not in matching),
        unused=tuple(sorted(source.keys() - parameters.keys() - buffers.keys())),
    )


def _encode_config(file: Path, config: Mapping[str, Any]) -> bytes:
    try:
        _Config.model_validate(config)
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
    except (ValidationError, TypeError, ValueError) as error:
        raise WeightsError(f"does not describe a model: {_reason(error)}", where=file) from None
    return text.encode()


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
