"""The engine of every training: steps, prefetched batches, history, checkpoints, resuming, signals and processes.

What is trained is a `Task`: faces in `training.face_task`, images and generators in `image_tasks`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.arithmetic import exact_settings
from sfplus.device import memory_errors
from sfplus.errors import SfplusError, TrainingError
from sfplus.io.threads import single_threaded_pool
from sfplus.recipes.settings.engine import LoopSettings
from sfplus.training.checkpoint import load_checkpoint, save_checkpoint
from sfplus.training.distributed import ProcessGroup, connection_errors
from sfplus.training.history import History
from sfplus.training.signals import DeferredSignals
from sfplus.training.train_state import Stateful, collect_state, is_finite, sharded_heads

Row = dict[str, Any]
OnStep = Callable[[int, Row], None]


class Task(Protocol):
    """A kind of training: the batches and the updates. Subclass it, or implement the same members.

    A task must be a function of its settings and the step, so that an interrupted run ends with the same bits as one
    that was not. All state that changes from step to step is in `modules` or `optimizers`. Random numbers of `update`
    come from torch's global generator, which the engine seeds for each step and process; those of `batch`, which runs
    in another thread, from a generator seeded by (seed, step).

    Attributes:
        modules: all parameters and buffers that a checkpoint must hold: an `nn.ModuleDict`, for example of a network
            and its head, or of generator and discriminator. `train` moves it to the device.
        optimizers: other state that a checkpoint must hold, by name: any `torch.optim.Optimizer` over parameters of
            `modules`, and a `GradScaler`. State is saved by the index of a parameter in its optimizer.
        digest: digest of everything that decides the result; a checkpoint with another one is refused.
        unit: name of the samples of a batch, for `<unit>_per_second`.
        remedy: advice for the message about values that are not finite.
        averaged: values of the rows whose mean over the last tenth of the run is in the summary.
    """

    modules: nn.Module
    optimizers: Mapping[str, Stateful]
    digest: str
    unit: str = "crops"
    remedy: str = "use a smaller learning rate"
    averaged: Sequence[str] = ("loss",)

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Return this process's share of the global batch of a step, on the host.

        Called once per step, one step early, in a separate thread.

        Args:
            step: number of the update, from 1.
            share: the part of the `batch_size` samples to return; all of them with one process.
        """
        ...

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """Perform one update: learning rate, forward, zero_grad, backward, optimizer steps.

        With several processes, call the modules that `ProcessGroup.prepare` returns, which average gradients.

        Args:
            step: number of the update, from 1.
            batch: the tensors of `batch` on the device (`Device.put`).
            measure: True if a row of the history is due.

        Returns:
            If measured, the values of the row except `step`, in the order of display: scalar tensors, which must be
            finite and are averaged over the processes, and numbers or None, which are kept as they are. Else None.
        """
        ...

    def describe(self, step: int) -> str:
        """Describe the step for the message about values that are not finite, as in `learning rate 0.1`."""
        return ""

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Extend a row of finite numbers before it is written, or warn; called in the first process.

        Args:
            row: values with `step`; may be changed in place.
            earlier: all rows before it.
        """
        return None


def train(
    task: Task, settings: LoopSettings, folder: Path, processes: ProcessGroup, on_step: OnStep | None = None
) -> dict[str, float]:
    """Train a task in place, from the newest checkpoint in `folder` or from step 1, up to `max_iter`.

    After SIGINT or SIGTERM to any of the processes, the current step or the next is finished and a checkpoint is
    written before the signal takes its usual effect; a second signal acts at once. Only the first process writes.

    Args:
        task: the task; its optimizers may be created before or after its modules are on the device.
        settings: settings of the run.
        folder: folder of `checkpoint-*/`, `history.jsonl`, `timings.jsonl` and `tensorboard/`; created if missing.
        processes: processes of the run; a task that averages gradients must use the same object.
        on_step: called in the first process after each step with its number and, at logged steps, the row of the
            history with `<unit>_per_second` (else an empty dict). An exception that it raises ends the run.

    Returns:
        `steps`, `seconds` of this call, and the means of `task.averaged` over the logged rows of the last tenth of the
        run; nan in processes other than the first.

    Raises:
        TrainingError: If a measured value or a weight is not finite (checked when a row or a checkpoint is due), the
            checkpoint was made with other settings or data, a file cannot be written, or another process is gone.
        UsageError: If the batch cannot be divided among the processes.
    """
    processes.share(settings.batch_size)
    started = time.perf_counter()
    processes.device.move(task.modules).train()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = _resume(task, folder, processes)
    with _writing(folder):
        history = History(folder, done) if processes.is_first else None
    try:
        with exact_settings(), connection_errors(), memory_errors(_less_memory(settings, processes), TrainingError):
            _Run(task, settings, folder, processes, history, on_step).steps(done)
    finally:
        if history is not None:
            history.close()
    summary = {"steps": float(settings.max_iter), "seconds": time.perf_counter() - started}
    last = [row for row in (history.rows if history else []) if row["step"] > 0.9 * settings.max_iter]
    for name in task.averaged:
        summary[name] = sum(row[name] for row in last) / len(last) if last else math.nan
    return summary


def _resume(task: Task, folder: Path, processes: ProcessGroup) -> int:
    """Bring all processes to the state of the first one: its newest checkpoint, or its initial weights."""
    environment = processes.describe() if processes.is_first else ""
    done = load_checkpoint(folder, task.digest, task.modules, task.optimizers, environment)
    steps = processes.gather(torch.tensor([done], device=processes.device.torch)).tolist()
    if len(set(steps)) > 1:
        what = f"the processes find checkpoints of different steps: {', '.join(map(str, steps))}"
        raise TrainingError(what, where=folder, remedy="use a folder that all of them share")
    shards = tuple(f"{name}." for name, _ in sharded_heads(task.modules))
    processes.broadcast(tensor for name, tensor in task.modules.state_dict().items() if not name.startswith(shards))
    return done


def _less_memory(settings: LoopSettings, processes: ProcessGroup) -> str:
    """Return the settings that save memory."""
    ways = ["use a smaller batch_size", *(["a larger accumulate"] if hasattr(settings, "accumulate") else [])]
    if settings.precision in ("auto", "float32") and processes.device.precision(settings.precision) == "float32":
        ways.append("precision=bf16")
    return ", ".join(ways[:-1]) + " or " * (len(ways) > 1) + ways[-1]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn errors of writing files into a TrainingError."""
    try:
        yield
    except (OSError, SfplusError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        reason = f"cannot be written ({cause.strerror or cause})"
        remedy = "free some space or repair the disk, and start again: the training continues from its last checkpoint"
        raise TrainingError(reason, where=folder, remedy=remedy) from error


class _Run:
    """The steps of one call of `train`."""

    def __init__(
        self,
        task: Task,
        settings: LoopSettings,
        folder: Path,
        processes: ProcessGroup,
        history: History | None,
        on_step: OnStep | None,
    ) -> None:
        self.task, self.settings, self.folder, self.processes = task, settings, folder, processes
        self.history, self.on_step = history, on_step
        self.collective_save = processes.count > 1 and any(sharded_heads(task.modules))
        """True if all processes take part in saving, to gather their shards; else the first process saves alone."""
        self.saved = self.logged = 0
        self.clock = 0.0

    def steps(self, done: int) -> None:
        settings, put = self.settings, self.processes.device.put
        self.clock, self.logged = time.perf_counter(), done
        with DeferredSignals() as signals:
            for step, batch in self._batches(done + 1):
                measure = step % settings.log_every == 0 or step == settings.max_iter
                seed = np.random.SeedSequence((2, settings.seed, step, self.processes.rank))
                torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
                with torch.autocast(self.processes.device.torch.type, enabled=False):  # that of the program around
                    values = self.task.update(step, tuple(map(put, batch)), measure)
                torch.clear_autocast_cache()  # it keeps copies of weights if the program has an autocast around this
                row = self._log(step, values) if values is not None else {}
                if step % settings.checkpoint_every == 0 or step == settings.max_iter:
                    self._save(step)
                try:
                    if self.on_step is not None and self.processes.is_first:
                        self.on_step(step, row)
                except KeyboardInterrupt:
                    if not self.collective_save:
                        self._save(step)
                    raise
                if number := self.processes.largest_so_far(signals.number):
                    self._save(step)
                    self.processes.wait()
                    signals.raise_signal(number)
            number = self.processes.largest(signals.number)
            self.processes.wait()
            if number:
                signals.raise_signal(number)

    def _batches(self, first: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield the batches of the remaining steps, each prepared, and pinned for a GPU, during the step before."""
        last, share = self.settings.max_iter, self.processes.share(self.settings.batch_size)
        with single_threaded_pool(1) as pool:  # several torch threads would compete with those of the step
            pending = [pool.submit(self._batch, first, share)] if first <= last else []
            for step in range(first, last + 1):
                batch = pending.pop().result()
                if step < last:
                    pending.append(pool.submit(self._batch, step + 1, share))
                yield step, batch

    def _batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        return tuple(map(self.processes.device.pin, self.task.batch(step, share)))

    def _save(self, step: int) -> None:
        if self.saved == step or not (self.processes.is_first or self.collective_save):
            return
        task, keep = self.task, self.settings.keep
        state = collect_state(task.modules, task.optimizers)  # of shards, all processes together
        if state is not None:
            if not is_finite(state, task.modules):
                raise self._diverged(step, "the weights are not finite")
            with _writing(self.folder):
                save_checkpoint(self.folder, step, task.digest, state, keep, self.processes.describe())
        self.saved = step

    def _diverged(self, step: int, what: str) -> TrainingError:
        state = self.task.describe(step)
        what = f"{what} at step {step}" + (f" ({state})" if state else "")
        return TrainingError(what, where=self.folder, remedy=self.task.remedy)

    def _log(self, step: int, values: Row) -> Row:
        measured = [name for name, value in values.items() if isinstance(value, Tensor)]
        if measured:
            means = self.processes.mean(torch.stack([values[name].detach().float() for name in measured])).tolist()
            for name, value in zip(measured, means, strict=True):
                if not math.isfinite(value):
                    raise self._diverged(step, f"the {name.replace('_', ' ')} is {value}")
            values = {**values, **dict(zip(measured, means, strict=True))}
        speed = (step - self.logged) * self.settings.batch_size / (time.perf_counter() - self.clock)
        row, timing = {"step": step, **values}, {f"{self.task.unit}_per_second": speed}
        if self.history is not None:
            self.task.logged(row, self.history.rows)
            with _writing(self.folder):
                self.history.add(row, {"step": step, **timing})
        self.clock, self.logged = time.perf_counter(), step
        return row | timing
