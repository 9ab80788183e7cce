"""Checkpoints of a run in progress. A kill at any moment leaves a valid one."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from sfplus.errors import SfplusError, TrainingError, one_line, warn_user
from sfplus.io.disk import flush
from sfplus.io.files import atomic_folder, file_digest, write_atomically
from sfplus.io.leftovers import remove_leftovers
from sfplus.training.history import HISTORY
from sfplus.training.train_state import Stateful, TrainState, restore_state
from sfplus.weights.model_folder import load_tensors, to_bytes

_STATE = "state.json"
_INCOMPLETE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL})  # other errors are of the disk


def save_checkpoint(
    folder: Path,
    step: int,
    settings: str,
    state: TrainState,
    keep: int = 2,
    environment: str = "",
) -> None:
    """Write `checkpoint-<step>/` and delete all but the newest `keep`.

    The folder holds `module.safetensors` (parameters and buffers), `optimizer.safetensors` (the tensors of the
    optimizers) and `state.json` (the step, a digest of the settings, the numbers of the optimizers, the SHA-256 of the
    other files and that of the history so far, which is flushed to the disk first).

    Args:
        folder: folder of the run.
        step: number of completed updates.
        settings: digest of everything that decides the result.
        state: the state of the modules and optimizers of the run, see `collect_state`.
        keep: number of checkpoints to keep.
        environment: description of what decides the order of sums: processes, device, threads.

    Raises:
        SfplusError: If a file cannot be written.
    """
    files = {"module.safetensors": to_bytes(state.modules), "optimizer.safetensors": to_bytes(state.optimizers)}
    header = {
        "step": step,
        "settings": settings,
        "place": environment,
        "optimizers": state.numbers,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "history": _describe_history(folder),
    }
    files[_STATE] = json.dumps(header | {"digest": _digest(header)}, indent=2).encode()
    remove_leftovers(folder, locked=True)
    # An existing checkpoint of this step is damaged: a valid one would have been resumed.
    with atomic_folder(folder / f"checkpoint-{step:06d}", replace=True) as partial:
        for name, data in files.items():
            write_atomically(partial / name, data, sync=False)  # the folder is flushed as a whole
    previous = [path for path in _checkpoints(folder) if _step(path) <= step]
    for path in set(_checkpoints(folder)) - set(previous[:keep]):
        shutil.rmtree(path)


def load_checkpoint(
    folder: Path, settings: str, module: nn.Module, optimizers: Mapping[str, Stateful], environment: str = ""
) -> int:
    """Load the newest valid checkpoint of a folder into modules and optimizers.

    A damaged checkpoint gives a warning, and the previous one is used. A checkpoint from another environment gives a
    warning that the run will no longer be bit for bit the same.

    Args:
        folder: folder of the run.
        settings: digest of everything that decides the result; the checkpoint must have the same.
        module: all modules of the run.
        optimizers: optimizers by name.
        environment: as in `save_checkpoint`; not compared if empty.

    Returns:
        The number of completed updates; 0 if there is no valid checkpoint, and then nothing is changed.

    Raises:
        TrainingError: If the checkpoint was made with other settings, other data, other modules or other optimizers.
    """
    for path in _checkpoints(folder):
        try:
            header = _verified_header(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, OSError) and error.errno not in _INCOMPLETE:
                remedy = "check the disk and run again, or delete it: the one before it is used"
                raise TrainingError(f"cannot be read: {error.strerror}", where=path, remedy=remedy) from error
            warn_user(f"{path}: is damaged ({one_line(error)}); the one before it is used")
            continue
        if header["settings"] != settings:
            raise TrainingError(
                "this checkpoint was made with other settings or other data",
                where=path,
                remedy="train into another folder, or remove the checkpoint folders to start again",
            )
        try:
            _restore(path, header["optimizers"], module, optimizers)
        except (SfplusError, KeyError, ValueError, RuntimeError) as error:
            reason = f"does not fit this network and head ({one_line(error)})"
            raise TrainingError(reason, where=path, remedy="train into another folder") from None
        if environment not in ("", header["place"]):
            warn_user(
                f"{path}: was written by {header['place']} and is continued by {environment}: the training is equally "
                "valid, but its weights will no longer equal those of an uninterrupted run bit for bit",
            )
        return int(header["step"])
    return 0


def _restore(path: Path, numbers: dict[str, Any], module: nn.Module, optimizers: Mapping[str, Stateful]) -> None:
    tensors = load_tensors(path / "module.safetensors"), load_tensors(path / "optimizer.safetensors")
    restore_state(TrainState(tensors[0], tensors[1], numbers), module, optimizers)


def _checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, newest first."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(paths, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _verified_header(path: Path) -> dict[str, Any]:
    header: dict[str, Any] = json.loads((path / _STATE).read_bytes())
    if header.pop("digest") != _digest(header):
        raise ValueError(f"{_STATE} was changed")
    for name in ("module.safetensors", "optimizer.safetensors"):
        if file_digest(path / name) != header["files"][name]:
            raise ValueError(f"{name} was changed or cut short")
    if "history" in header:  # checkpoints of earlier versions do not say
        length, digest = header["history"]
        with _open_history(path.parent) as file:
            if hashlib.sha256(file.read(length)).hexdigest() != digest:
                raise ValueError(f"{HISTORY} was changed or cut short")
    return header


def _describe_history(folder: Path) -> list[Any]:
    """Return the length in bytes and the SHA-256 of the history so far, after flushing it to the disk."""
    if (folder / HISTORY).is_file():
        flush(folder / HISTORY)
    with _open_history(folder) as file:
        data = file.read()
    return [len(data), hashlib.sha256(data).hexdigest()]


def _open_history(folder: Path) -> BinaryIO:
    return (folder / HISTORY).open("rb") if (folder / HISTORY).is_file() else io.BytesIO()


def _digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
