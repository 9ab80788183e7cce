"""Checkpoints of a run in progress: written so that a kill at any moment leaves a valid one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfplus.download import file_digest
from sfplus.errors import SfplusError, TrainingError, one_line
from sfplus.weights.checkpoint import load_tensors, to_bytes

_STATE = "state.json"


def save_checkpoint(
    folder: Path, step: int, settings: str, module: nn.Module, optimizer: torch.optim.SGD, keep: int = 2
) -> None:
    """Write `checkpoint-<step>/` and drop all but the newest `keep`.

    The folder holds `module.safetensors` (network, head and its lambda counter), `optimizer.safetensors` (velocities
    and torch's random state) and `state.json` (the step, a digest of the settings, the rates and the SHA-256 of the
    other files). It is complete before it gets its name.

    Args:
        folder: of the run.
        step: updates done.
        settings: digest of everything that decides the result.
        module: network and head.
        optimizer: over the module's parameters.
        keep: how many checkpoints stay.
    """
    files = {
        "module.safetensors": to_bytes(module.state_dict()),
        "optimizer.safetensors": to_bytes(_velocities(module, optimizer) | {"random": torch.get_rng_state()}),
    }
    state = {
        "step": step,
        "settings": settings,
        "rates": [group["lr"] for group in optimizer.param_groups],
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


def load_checkpoint(folder: Path, settings: str, module: nn.Module, optimizer: torch.optim.SGD) -> int:
    """Bring module, optimizer and torch's random state to the newest valid checkpoint of a folder.

    A damaged checkpoint gives a warning and the one before it is used.

    Returns:
        The number of updates done; 0, and nothing is changed, where there is no valid checkpoint.

    Raises:
        TrainingError: the checkpoint was made with other settings or other crops.
    """
    for path in _checkpoints(folder):
        try:
            state = _verified_state(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            warnings.warn(f"{path}: is damaged ({one_line(error)}); the one before it is used", stacklevel=2)
            continue
        if state["settings"] != settings:
            raise TrainingError(
                "this checkpoint was made with other settings or other crops",
                where=path,
                remedy="train into another folder, or remove the checkpoint folders to start again",
            )
        try:
            _restore(path, state["rates"], module, optimizer)
        except (SfplusError, KeyError, RuntimeError) as error:
            reason = f"does not fit this network and head ({one_line(error)})"
            raise TrainingError(reason, where=path, remedy="train into another folder") from None
        return int(state["step"])
    return 0


def _restore(path: Path, rates: list[float], module: nn.Module, optimizer: torch.optim.SGD) -> None:
    module.load_state_dict(load_tensors(path / "module.safetensors"))
    tensors = load_tensors(path / "optimizer.safetensors")
    torch.set_rng_state(tensors["random"])
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and f"velocity.{name}" in tensors:
            velocity = torch.empty_like(parameter, requires_grad=False)
            optimizer.state[parameter]["momentum_buffer"] = velocity.copy_(tensors[f"velocity.{name}"])


def _velocities(module: nn.Module, optimizer: torch.optim.SGD) -> dict[str, torch.Tensor]:
    trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    found = ((name, optimizer.state[p].get("momentum_buffer")) for name, p in trained)
    return {f"velocity.{name}": velocity for name, velocity in found if velocity is not None}


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
