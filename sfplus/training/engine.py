"""The engine of every training: steps, batches decoded ahead, history, checkpoints, resume, signals, processes.

What is trained is a `Task`: faces in `loop.py`; small images and generators are others.
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

from sfplus.device import keep_freed_memory
from sfplus.errors import TrainingError
from sfplus.io.threads import single_threaded_pool
from sfplus.recipes.settings.engine import LoopSettings
from sfplus.training.checkpoint import load_checkpoint, save_checkpoint
from sfplus.training.distributed import Processes
from sfplus.training.history import History
from sfplus.training.signals import Signals
from sfplus.training.train_state import Stateful, shards

Row = dict[str, Any]
OnStep = Callable[[int, Row], None]


class Task(Protocol):
    """A kind of training: what a step learns from, and what it does. Subclass it, or look like it.

    A task must be a function of its settings and the step, for a run to end with the bits of one that was never
    interrupted: what changes from step to step is in `modules` or `optimizers`, and nowhere else. Random numbers of
    `update` come from torch's global generator, which the engine seeds anew for each step and process; those of
    `batch`, which runs in another thread, from a generator seeded by (seed, step).

    Attributes:
        modules: everything with parameters or buffers that a checkpoint must hold: an `nn.ModuleDict`, for example of
            a network and its head, or of generator and discriminator. `train` puts it on the device.
        optimizers: by name, what else a checkpoint must hold: any `torch.optim.Optimizer`, over parameters of
            `modules`, and a `GradScaler`. State is saved by the position of a parameter in its optimizer.
        digest: of everything that decides the result; a checkpoint with another one is refused.
        unit: what a batch is made of, for `<unit>_per_second`.
        remedy: what to do when values are not finite, in words.
        averaged: values of the rows whose mean over the last tenth of the run is in the summary.
    """

    modules: nn.Module
    optimizers: Mapping[str, Stateful]
    digest: str
    unit: str = "crops"
    remedy: str = "use a smaller learning rate"
    averaged: Sequence[str] = ("loss",)

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """This process's share of the global batch of a step, on the host.

        Called once per step, one step ahead, in a thread of its own.

        Args:
            step: from 1.
            share: which of the `batch_size` samples; all of them in one process.
        """
        ...

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """One whole update: set the learning rate, forward, zero_grad, backward, average, the optimizers' steps.

        With several processes, `Processes.average_gradients` must be called before each optimizer's step.

        Args:
            step: from 1.
            batch: what `batch` gave, on the device (`Device.put`).
            measure: whether a row of the history is due.

        Returns:
            When measured, the values of the row but `step`, in the order they are to be shown: scalar tensors, of
            which the mean over the processes is taken and which must be finite, and numbers or None, taken as they
            are. Else None.
        """
        ...

    def describe(self, step: int) -> str:
        """Where the run stands, for the message about values that are not finite: `learning rate 0.1`."""
        return ""

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Called in the first process with a row of finite numbers before it is written: add to it, or warn.

        Args:
            row: with `step`; may be changed.
            earlier: all rows before it.
        """
        return None  # by default nothing


def train(
    task: Task, settings: LoopSettings, folder: Path, processes: Processes, on_step: OnStep | None = None
) -> dict[str, float]:
    """Train a task in place, from the newest checkpoint in `folder` or from step 1, up to `max_iter`.

    SIGINT and SIGTERM, to any of the processes, are answered after the current step, or the next, with a checkpoint
    and then take their usual effect; a second one acts at once. Only the first process writes.

    Args:
        task: what is trained; its optimizers may be made before or after its modules are on the device.
        settings: of the run.
        folder: for `checkpoint-*/`, `history.jsonl`, `timings.jsonl` and `tensorboard/`; created where missing.
        processes: of the run; a task that averages gradients must have the same ones.
        on_step: called in the first process after each step with its number and, at logged steps, the row of the
            history with `<unit>_per_second` (else an empty dict). What it raises ends the run.

    Returns:
        `steps`, `seconds` of this call, and the means of `task.averaged` over the logged rows of the last tenth of the
        run; nan in processes other than the first.

    Raises:
        TrainingError: a measured value or a weight is not finite (looked at when a row or a checkpoint is due), the
            checkpoint was made with other settings or data, a file cannot be written, or another process is gone.
        UsageError: the batch cannot be divided among the processes.
    """
    processes.share(settings.batch_size)
    started = time.perf_counter()
    if not processes.device.is_cuda:
        keep_freed_memory()
    processes.device.move(task.modules).train()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = _resume(task, folder, processes)
    with _writing(folder):
        history = History(folder, done) if processes.is_first else None
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            _Run(task, settings, folder, processes, history, on_step).steps(done)
    finally:
        if history is not None:
            history.close()
    summary = {"steps": float(settings.max_iter), "seconds": time.perf_counter() - started}
    last = [row for row in (history.rows if history else []) if row["step"] > 0.9 * settings.max_iter]
    for name in task.averaged:
        summary[name] = sum(row[name] for row in last) / len(last) if last else math.nan
    return summary


def _resume(task: Task, folder: Path, processes: Processes) -> int:
    """Bring all processes to where the first one is: its newest checkpoint, or its starting weights."""
    place = processes.describe() if processes.is_first else ""
    done = load_checkpoint(folder, task.digest, task.modules, task.optimizers, place)
    found = processes.gather(torch.tensor([done], device=processes.device.torch)).tolist()
    if len(set(found)) > 1:
        what = f"the processes find checkpoints of different steps: {', '.join(map(str, found))}"
        raise TrainingError(what, where=folder, remedy="use a folder that all of them share")
    parted = tuple(f"{name}." for name, _ in shards(task.modules))
    processes.spread(tensor for name, tensor in task.modules.state_dict().items() if not name.startswith(parted))
    return done


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Writing of files, which needs room on the disk."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        remedy = "make room or mend the disk, and start again: the training goes on from its newest checkpoint"
        raise TrainingError(reason, where=folder, remedy=remedy) from error


class _Run:
    """The steps of one call of `train`."""

    def __init__(
        self,
        task: Task,
        settings: LoopSettings,
        folder: Path,
        processes: Processes,
        history: History | None,
        on_step: OnStep | None,
    ) -> None:
        self.task, self.settings, self.folder, self.processes = task, settings, folder, processes
        self.history, self.on_step = history, on_step
        self.together = processes.count > 1 and any(shards(task.modules))
        """Whether all processes save, each its shards; else the first does."""
        self.saved = self.logged = 0
        self.clock = 0.0

    def steps(self, done: int) -> None:
        settings, put = self.settings, self.processes.device.put
        self.clock, self.logged = time.perf_counter(), done
        with Signals() as signals:
            for step, batch in self._batches(done + 1):
                measure = step % settings.log_every == 0 or step == settings.max_iter
                seed = np.random.SeedSequence((2, settings.seed, step, self.processes.rank))
                torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
                values = self.task.update(step, tuple(map(put, batch)), measure)
                row = self._log(step, values) if values is not None else {}
                if step % settings.checkpoint_every == 0 or step == settings.max_iter:
                    self._save(step)
                try:
                    if self.on_step is not None and self.processes.is_first:
                        self.on_step(step, row)
                except KeyboardInterrupt:
                    if not self.together:
                        self._save(step)
                    raise
                if number := self.processes.largest_so_far(signals.number):
                    self._save(step)
                    self.processes.wait()
                    signals.pass_on(number)
            number = self.processes.largest(signals.number)
            self.processes.wait()
            if number:
                signals.pass_on(number)

    def _batches(self, first: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """The batches of the remaining steps; one is made ahead."""
        last, share = self.settings.max_iter, self.processes.share(self.settings.batch_size)
        with single_threaded_pool(1) as pool:  # torch's own threads would wait in the way of the step's
            coming = [pool.submit(self.task.batch, first, share)] if first <= last else []
            for step in range(first, last + 1):
                batch = coming.pop().result()
                if step < last:
                    coming.append(pool.submit(self.task.batch, step + 1, share))
                yield step, batch

    def _save(self, step: int) -> None:
        if self.saved == step or not (self.processes.is_first or self.together):
            return
        if not all(p.isfinite().all() for p in self.task.modules.parameters()):
            raise self._diverged(step, "the weights are not finite")
        task, keep = self.task, self.settings.keep
        with _writing(self.folder):
            save_checkpoint(
                self.folder, step, task.digest, task.modules, task.optimizers, keep, self.processes.describe()
            )
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
