"""Checkpoints of a run in progress: written so that a kill at any moment leaves a valid one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sfplus.errors import SfplusError, TrainingError, one_line
from sfplus.io.files import file_digest
from sfplus.training.train_state import State, Stateful, collect, restore
from sfplus.weights.model_folder import load_tensors, to_bytes

_STATE = "state.json"


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
    the other files). It is complete before it gets its name. Class-parallel classifiers are written as a whole, by the
    first process; then all of them must call this together.

    Args:
        folder: of the run.
        step: updates done.
        settings: digest of everything that decides the result.
        module: all modules of the run.
        optimizers: by name; over the module's parameters.
        keep: how many checkpoints stay.
        place: what decides the order of sums: processes, device, threads.
    """
    whole = collect(module, optimizers)
    if whole is None:
        return
    files = {"module.safetensors": to_bytes(whole.modules), "optimizer.safetensors": to_bytes(whole.optimizers)}
    state = {
        "step": step,
        "settings": settings,
        "place": place,
        "optimizers": whole.numbers,
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
    tensors = load_tensors(path / "module.safetensors"), load_tensors(path / "optimizer.safetensors")
    restore(State(tensors[0], tensors[1], numbers), module, optimizers)


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
