"""Checkpoints of a run in progress: written so that a kill at any moment leaves a valid one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfplus.download import file_digest
from sfplus.errors import SfplusError, TrainingError, one_line
from sfplus.weights.checkpoint import load_tensors, to_bytes

_STATE = "state.json"


class Stateful(Protocol):
    """What has a state of tensors and numbers: an optimizer, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take on a state."""
        ...


def save_checkpoint(
    folder: Path,
    step: int,
    settings: str,
    module: nn.Module,
    optimizers: Mapping[str, Stateful],
    keep: int = 2,
    place: str = "",
) -> None:
    """Write `checkpoint-<step>/` and drop all but the newest `keep`.

    The folder holds `module.safetensors` (parameters and buffers), `optimizer.safetensors` (the tensors of the
    optimizers) and `state.json` (the step, a digest of the settings, the numbers of the optimizers and the SHA-256 of
    the other files). It is complete before it gets its name.

    Args:
        folder: of the run.
        step: updates done.
        settings: digest of everything that decides the result.
        module: all modules of the run.
        optimizers: by name; over the module's parameters.
        keep: how many checkpoints stay.
        place: what decides the order of sums: processes, device, threads.
    """
    tensors: dict[str, Tensor] = {}
    numbers = {name: _take_out(optimizer.state_dict(), name, tensors) for name, optimizer in optimizers.items()}
    files = {"module.safetensors": to_bytes(module.state_dict()), "optimizer.safetensors": to_bytes(tensors)}
    state = {
        "step": step,
        "settings": settings,
        "place": place,
        "optimizers": numbers,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files[_STATE] = json.dumps(state | {"digest": _digest(state)}, indent=2).encode()
    partial, target = folder / f".checkpoint-{step:06d}.partial", folder / f"checkpoint-{step:06d}"
    for leftover in folder.glob(".checkpoint-*.partial"):
        shutil.rmtree(leftover)
    partial.mkdir()
    for name, data in files.items():
        with (partial / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if target.exists():  # a damaged one: valid ones are resumed, never written twice
        shutil.rmtree(target)
    partial.replace(target)
    earlier = [path for path in _checkpoints(folder) if _step(path) <= step]
    for path in set(_checkpoints(folder)) - set(earlier[:keep]):
        shutil.rmtree(path)


def load_checkpoint(
    folder: Path, settings: str, module: nn.Module, optimizers: Mapping[str, Stateful], place: str = ""
) -> int:
    """Bring module and optimizers to the newest valid checkpoint of a folder.

    A damaged checkpoint gives a warning and the one before it is used. One that was made in another place, where this
    one is given, gives a warning that the run is no longer the same to the bit.

    Returns:
        The number of updates done; 0, and nothing is changed, where there is no valid checkpoint.

    Raises:
        TrainingError: the checkpoint was made with other settings or other data, or by other modules or optimizers.
    """
    for path in _checkpoints(folder):
        try:
            state = _verified_state(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            warnings.warn(f"{path}: is damaged ({one_line(error)}); the one before it is used", stacklevel=2)
            continue
        if state["settings"] != settings:
            raise TrainingError(
                "this checkpoint was made with other settings or other data",
                where=path,
                remedy="train into another folder, or remove the checkpoint folders to start again",
            )
        try:
            _restore(path, state["optimizers"], module, optimizers)
        except (SfplusError, KeyError, ValueError, RuntimeError) as error:
            reason = f"does not fit this network and head ({one_line(error)})"
            raise TrainingError(reason, where=path, remedy="train into another folder") from None
        if place not in ("", state["place"]):
            warnings.warn(
                f"{path}: was made by {state['place']}, and goes on by {place}: the training is as right, but its "
                "weights no longer equal those of an undisturbed one to the bit",
                stacklevel=2,
            )
        return int(state["step"])
    return 0


def _restore(path: Path, numbers: dict[str, Any], module: nn.Module, optimizers: Mapping[str, Stateful]) -> None:
    if numbers.keys() != optimizers.keys():
        raise ValueError(f"its optimizers are {', '.join(numbers)}")
    tensors = load_tensors(path / "optimizer.safetensors")
    module.load_state_dict(load_tensors(path / "module.safetensors"))
    for name, optimizer in optimizers.items():
        state = _put_back(numbers[name], tensors)
        optimizer.load_state_dict(_laid_out_as(optimizer, state))


def _take_out(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state for JSON: its tensors go to `tensors`, by their path, and leave {"tensor": path}."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {str(key): _take_out(value, f"{name}.{key}", tensors) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_take_out(value, f"{name}.{number}", tensors) for number, value in enumerate(state)]
    return state


def _put_back(state: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_take_out` took apart; keys that are numbers are numbers again, tuples stay lists."""
    if isinstance(state, dict):
        if state.keys() == {"tensor"}:
            return tensors[state["tensor"]]
        return {int(key) if key.isdecimal() else key: _put_back(value, tensors) for key, value in state.items()}
    return [_put_back(value, tensors) for value in state] if isinstance(state, list) else state


def _laid_out_as(optimizer: Stateful, state: dict[str, Any]) -> dict[str, Any]:
    """Tensors in the memory format of their parameters, which safetensors does not keep."""
    groups = optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else []
    for number, parameter in enumerate(p for group in groups for p in group["params"]):
        for name, value in state["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                laid = torch.empty_like(parameter, dtype=value.dtype, device="cpu", requires_grad=False)
                state["state"][number][name] = laid.copy_(value)
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _verified_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / _STATE).read_bytes())
    if state.pop("digest") != _digest(state):
        raise ValueError(f"{_STATE} was changed")
    for name in ("module.safetensors", "optimizer.safetensors"):
        if file_digest(path / name) != state["files"][name]:
            raise ValueError(f"{name} was changed or cut short")
    return state


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
