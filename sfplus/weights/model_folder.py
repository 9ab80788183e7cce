"""Models as folders in the Hugging Face layout: `model.safetensors` and `config.json`. Nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sfplus.errors import UsageError, WeightsError, explain_damage
from sfplus.io.files import check_folder, write_atomically
from sfplus.io.tensor_files import check_tensor_list
from sfplus.networks import (
    DEFAULT_INPUT,
    NEUTRAL_OPTIONS,
    create,
    is_function,
    is_library_network,
    is_network,
    network_options,
    parse_size,
)
from sfplus.networks.own_networks import build_own, check_features
from sfplus.weights import CONFIG, HEAD, MODEL
from sfplus.weights.allocations import AllocationError, limit_to
from sfplus.weights.feature_network import FeatureNetwork
from sfplus.weights.model_config import code_error, encode_config, read_config

_FITTING = "use the config.json of this file, or the right network"
_MAX_NAME = 100  # characters of the name of a tensor in a message
_PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


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
            model, such as `template` and `provenance`. The other options of a network of the registry are added; of
            one of the user's own, config has `input` and `network_options`. Must be JSON.
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
    options = getattr(network, "options", {}) if is_network(config.get("network", "")) else {}
    text = encode_config(config | options, folder / CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    if head is not None:
        write_atomically(folder / HEAD, to_bytes(head.state_dict(), dtype))
    write_atomically(folder / MODEL, to_bytes(network.state_dict(), dtype))
    write_atomically(folder / CONFIG, text)


def load_folder(path: Path, network: str = "") -> tuple[nn.Module, dict[str, Any]]:
    """Load a model that `save_model` wrote, from its folder or .safetensors file; see `loading.load_model`.

    Args:
        path: the folder or file.
        network: `package.module:function` of a network of the user's own. What config.json names is never imported:
            anybody may have written it.

    Raises:
        UsageError: If the network is code, and is not named.
    """
    file = weights_file(path)
    config = read_config(file.with_name(CONFIG))
    if is_function(config["network"]):
        return _create_own(config, network, file), config
    return create_with_tensors(config, load_tensors(file), file.with_name(CONFIG), file), config


def _create_own(config: Mapping[str, Any], network: str, file: Path) -> nn.Module:
    """Create a network of the user's own, whose code the user named, with weights."""
    if not network:
        raise code_error(config, file.with_name(CONFIG), "--network")
    sizes = {"feature_size": config["feature_size"], "input": config.get("input", DEFAULT_INPUT)}
    standard = {key: config[key] for key in NEUTRAL_OPTIONS if key in config}
    tensors, image = load_tensors(file), (3, *parse_size(sizes["input"]))
    try:
        with torch.random.fork_rng(devices=[]), limit_to(tensors.values()):
            created = build_own(network, config.get("network_options", {}), **sizes, **standard)
            if not any(map(is_lazy, created.state_dict().values())):  # which get their shapes from the first images
                _check_tensors(created, tensors, network, file)
            check_features(created, sizes["feature_size"], image, network)
    except UsageError as error:
        if not isinstance(error.__cause__, AllocationError):
            raise
        raise WeightsError(f"{network} is larger than these weights", where=file, remedy=_FITTING) from None
    assign_tensors(created, tensors, network, file)
    return created


def create_with_tensors(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], described_by: Path, where: Path, *, fill: bool = False
) -> nn.Module:
    """Create the network that a config describes, with weights; no random numbers are drawn.

    A network that is much larger than the weights is refused before it uses memory, because anybody may have written
    the config.

    Args:
        config: as `read_config` returns it.
        tensors: the weights, as for `assign_tensors`.
        described_by: the file of the config, for messages.
        where: the file of the tensors, for messages.
        fill: use 0 for the biases of convolutions and the counters of batches that some formats omit.

    Raises:
        WeightsError: If the config does not describe a network, or a tensor differs.
    """
    name = config["network"]
    try:
        options = {key: value for key, value in config.items() if key in network_options(name)}
        with limit_to(tensors.values()):
            network = create_uninitialised(name, **options)
    except UsageError as error:
        raise WeightsError(error.reason, where=described_by, remedy=error.remedy) from None
    except AllocationError:
        raise WeightsError(f"{name} is larger than these weights", where=where, remedy=_FITTING) from None
    if fill:
        tensors = {**tensors, **_omitted(network, tensors)}
    assign_tensors(network, tensors, name, where)
    return network


def create_uninitialised(name: str, **options: Any) -> nn.Module:
    """Create a network for `assign_tensors`, without drawing random numbers; see `networks.create`."""
    if is_library_network(name):  # may have buffers that are computed, not loaded
        with torch.random.fork_rng(devices=[]):
            return create(name, **options)
    with torch.device("meta"):
        return create(name, **options)


def _omitted(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for the biases of convolutions and the counters of batches that are missing."""
    zeros = {}
    for name, expected in network.state_dict().items():
        omitted_bias = name.startswith("conv") and name.endswith(".bias") and f"{name[:-4]}weight" in tensors
        if name not in tensors and (omitted_bias or name.endswith("num_batches_tracked")):
            zeros[name] = torch.zeros(expected.shape, dtype=expected.dtype)
    return zeros


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
    _check_tensors(network, tensors, name, where)
    checked: dict[str, Tensor] = {}
    for key, expected in network.state_dict().items():
        if tensors[key].is_floating_point() and expected.is_floating_point():
            checked[key] = tensors[key].to(expected.dtype)
            if not is_finite(checked[key]):
                raise WeightsError(f"tensor {key} does not hold finite floating-point numbers", where=where)
        elif tensors[key].dtype == expected.dtype:  # a counter
            checked[key] = tensors[key]
        else:
            raise WeightsError(f"tensor {key} holds {tensors[key].dtype}, not {expected.dtype}", where=where)
    network.load_state_dict(checked, assign=True)
    network.eval()


def _check_tensors(network: nn.Module, tensors: Mapping[str, Tensor], name: str, where: Path) -> None:
    """Compare the names and shapes of tensors with those of a network; see `assign_tensors`."""
    expected = network.state_dict()
    for key in dict.fromkeys([*expected, *tensors]):
        if key not in tensors or key not in expected:
            reason = "is missing" if key in expected else f"does not belong to {name}"
            raise WeightsError(f"tensor {key[:_MAX_NAME]} {reason}", where=where, remedy=_FITTING)
        if tensors[key].shape != expected[key].shape:
            shapes = f"{tuple(tensors[key].shape)}, {name} needs {tuple(expected[key].shape)}"
            raise WeightsError(f"tensor {key} is {shapes}", where=where, remedy=_FITTING)


def is_finite(tensor: Tensor) -> bool:
    """Return whether a floating-point tensor has no infinity and no NaN.

    One pass without a copy, which takes a tenth of the time of `isfinite().all()`.
    """
    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in tensor.aminmax())


def weights_file(path: Path) -> Path:
    """Return the .safetensors file of a model, given its folder or the file itself.

    Raises:
        UsageError: If it is not a .safetensors file.
        WeightsError: If it does not exist, or is a pickle.
    """
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        remedy = f"convert it: sfplus convert {path.name} FOLDER"
        raise WeightsError("is a pickle, which can run code when it is read", where=path, remedy=remedy)
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise WeightsError("there is no such file", where=file, remedy="give a folder written by sfplus train")
    if file.suffix.lower() != ".safetensors":
        raise UsageError("is not a .safetensors file", where=file, remedy="give a folder written by sfplus train")
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
    check_tensor_list(file, WeightsError)
    with explain_damage(file, remedy="get the file again", error=WeightsError):
        return dict(safetensors.torch.load_file(file))


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
