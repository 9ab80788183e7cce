"""The training loop: SGD on aligned crops, exactly resumable, on one device or several through Accelerate."""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sfplus.datasets.crops import CropDataset
from sfplus.device import Device
from sfplus.errors import DatasetError, TrainingError, UsageError
from sfplus.hypersphere import class_energy, spread_of_layers
from sfplus.networks import to_input
from sfplus.training.batches import draw_batch
from sfplus.training.history import History
from sfplus.training.optimizer import create_optimizer, set_learning_rate
from sfplus.training.resume import load_checkpoint, save_checkpoint
from sfplus.training.schedule import learning_rate
from sfplus.training.settings import EnergySettings, SolverSettings
from sfplus.training.signals import Signals

OnStep = Callable[[int, dict[str, Any]], None]


def fit(
    network: nn.Module,
    head: nn.Module,
    crops: CropDataset,
    settings: SolverSettings,
    folder: Path,
    device: Device,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train network and head in place, from the newest checkpoint in `folder` or from step 1, up to `max_iter`.

    The crops and mirror flips of a step are a function of settings and step, so that a run that was interrupted ends
    with the bits of one that was not (same device, threads and number of processes). SIGINT and SIGTERM are answered
    after the current step with a checkpoint and then take their usual effect; a second one acts at once.

    Under `accelerate launch` or torchrun each process takes its slice of the global batch and only the first one
    writes. A GPU computes the network in bfloat16 where it can; head and losses are float32.

    Args:
        network: (N, 3, H, W) -> (N, F), with its starting weights.
        head: one of `hypersphere.HEADS`, for as many classes as `crops` has.
        crops: what to learn from.
        settings: of the run; all of them but `checkpoint_every` are part of the digest that a checkpoint must match.
            What describes network and head is not read: they are given.
        folder: for `checkpoint-*/`, `history.jsonl`, `timings.jsonl` and `tensorboard/`; created where missing.
        device: where to train; with several processes on GPUs each takes its own.
        on_step: called after each step with its number and, at logged steps, the row of the history with
            `crops_per_second` (else an empty dict). What it raises ends the run.

    Returns:
        `steps`, `seconds` of this call, and `loss` (of the head, without the energy) and `accuracy` (without
        margin, on training batches) averaged over the logged rows of the last tenth of the run; nan in processes
        other than the first.

    Raises:
        TrainingError: the loss or a weight is not finite (looked at when a row or a checkpoint is due), or the
            checkpoint was made with other settings or crops.
        UsageError: the batch cannot be divided among the processes.
        DatasetError: a label is beyond the head's classes, or a crop has another size than the others.
        PhotoError: a crop cannot be decoded.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(cpu=several and not device.is_cuda, mixed_precision="no")
    if accelerator.num_processes > 1 and device.is_cuda:
        device = Device(accelerator.device)
    if settings.batch_size % accelerator.num_processes:
        what = f"{settings.batch_size} crops cannot be divided among {accelerator.num_processes} processes"
        raise UsageError(what, where="batch_size", remedy="use a multiple of the number of processes")
    classes = len(head.weight)  # type: ignore[arg-type]
    if int(crops.labels.max()) >= classes:
        what = f"label {int(crops.labels.max())} is beyond the {classes} classes of the head"
        raise DatasetError(what, where="crops", remedy="make the head for as many people as there are")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    objective = _Objective(network, head, settings.energy, device)
    device.place(objective).train()
    optimizer = create_optimizer(
        objective, lr=settings.base_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    done = load_checkpoint(folder, _digest(settings, crops), objective, optimizer)
    history = History(folder, done) if accelerator.is_main_process else None
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            run = _Run(accelerator, objective, optimizer, crops, settings, folder, device, history, on_step)
            run.steps(done)
    finally:
        if history is not None:
            history.close()
    summary = {"steps": float(settings.max_iter), "seconds": time.perf_counter() - started}
    last = [row for row in (history.rows if history else []) if row["step"] > 0.9 * settings.max_iter]
    for name in ("loss", "accuracy"):
        summary[name] = sum(row[name] for row in last) / len(last) if last else math.nan
    return summary


class _Objective(nn.Module):
    """Network, head and losses in one module, so that distributed training sees one forward."""

    def __init__(self, network: nn.Module, head: nn.Module, energy: EnergySettings | None, device: Device) -> None:
        super().__init__()
        self.network, self.head = network, head
        self._energy, self._device = energy, device

    def forward(self, crops: Tensor, labels: Tensor, measure: bool) -> tuple[Tensor, Tensor | None]:
        """The loss and, when asked, [loss of the head, energy, accuracy without margin, mean length of a feature]."""
        with self._device.autocast():
            features = self.network(to_input(crops))
        features = features.float()
        entropy = self.head.loss(features, labels)  # type: ignore[operator]
        energy = torch.zeros_like(entropy)
        if self._energy is not None:
            energy = class_energy(self.head.weight, labels, self._energy.power, self._energy.mode)  # type: ignore[arg-type]
        loss = entropy if self._energy is None else entropy + self._energy.weight * energy
        if not measure:
            return loss, None
        with torch.no_grad():
            right = self.head.predict(features).argmax(1) == labels  # type: ignore[operator]
            measured = [entropy.detach(), energy.detach(), right.float().mean(), features.norm(dim=1).mean()]
        return loss, torch.stack(measured)


class _Run:
    """The steps of one call of `fit`."""

    def __init__(
        self,
        accelerator: Accelerator,
        objective: _Objective,
        optimizer: torch.optim.SGD,
        crops: CropDataset,
        settings: SolverSettings,
        folder: Path,
        device: Device,
        history: History | None,
        on_step: OnStep | None,
    ) -> None:
        self.accelerator, self.objective, self.optimizer = accelerator, objective, optimizer
        self.crops, self.settings, self.folder, self.device = crops, settings, folder, device
        self.history, self.on_step = history, on_step
        self.digest = _digest(settings, crops)
        self.saved = self.logged = 0
        self.clock = 0.0
        self.warned = False

    def steps(self, done: int) -> None:
        settings = self.settings
        model = self.accelerator.prepare_model(self.objective, device_placement=False)
        self.clock, self.logged = time.perf_counter(), done
        with Signals(self.accelerator.is_main_process) as signals:
            for step, crops, labels in self._batches(done + 1):
                set_learning_rate(self.optimizer, self._rate(step))
                measure = step % settings.log_every == 0 or step == settings.max_iter
                loss, measured = model(self.device.put(crops), self.device.put(labels), measure)
                self.optimizer.zero_grad()
                self.accelerator.backward(loss)
                self.optimizer.step()
                row = self._log(step, measured) if measured is not None else {}
                if step % settings.checkpoint_every == 0 or step == settings.max_iter:
                    self._save(step)
                try:
                    if self.on_step is not None and self.accelerator.is_main_process:
                        self.on_step(step, row)
                except KeyboardInterrupt:
                    self._save(step)
                    raise
                if signals.number:
                    self._save(step)
                    signals.pass_on()
            self.accelerator.wait_for_everyone()

    def _batches(self, first: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The batches of the remaining steps; one is decoded ahead."""
        settings, accelerator = self.settings, self.accelerator
        share = settings.batch_size // accelerator.num_processes
        mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)

        def load(step: int) -> tuple[Tensor, Tensor]:
            indices, flips = draw_batch(step, len(self.crops), settings)
            crops, labels = self.crops.batch(indices[mine])
            flip = torch.from_numpy(flips[mine])
            crops[flip] = crops[flip].flip(2)
            return crops, labels

        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(load, first)] if first <= settings.max_iter else []
            for step in range(first, settings.max_iter + 1):
                crops, labels = coming.pop().result()
                if step < settings.max_iter:
                    coming.append(pool.submit(load, step + 1))
                yield step, crops, labels

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.settings.base_lr, self.settings.steps, self.settings.lr_gamma)

    def _save(self, step: int) -> None:
        if not self.accelerator.is_main_process or self.saved == step:
            return
        if not all(p.isfinite().all() for p in self.objective.parameters()):
            raise self._diverged(step, "the weights are not finite")
        save_checkpoint(self.folder, step, self.digest, self.objective, self.optimizer)
        self.saved = step

    def _diverged(self, step: int, what: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {step} (lambda {self._lambda():.4g}, learning rate {self._rate(step):.4g})",
            where=self.folder,
            remedy="use a smaller base_lr, start from a model trained with a smaller m, or a larger lambda_min",
        )

    def _lambda(self) -> float:
        value: Any = self.objective.head.current_lambda
        return float(value)

    def _log(self, step: int, measured: Tensor) -> dict[str, Any]:
        loss, energy, accuracy, length = self.accelerator.reduce(measured, "mean").tolist()
        if not (math.isfinite(loss) and math.isfinite(energy)):
            raise self._diverged(step, f"the loss is {loss}")
        speed = (step - self.logged) * self.settings.batch_size / (time.perf_counter() - self.clock)
        row = {
            "step": step,
            "epoch": step * self.settings.batch_size / len(self.crops),
            "loss": loss,
            "accuracy": accuracy,
            "lambda": self._lambda(),
            "lr": self._rate(step),
            "energy": energy if self.settings.energy is not None else None,
            "feature_length": length,
        }
        if self.history is not None:
            row |= self._spread()
            self.history.add(row, {"step": step, "crops_per_second": speed})
            self._warn_at_chance(step)
        self.clock, self.logged = time.perf_counter(), step
        return row | {"crops_per_second": speed}

    def _spread(self) -> dict[str, float | None]:
        """How the neurons of each layer and the classifiers of the head are spread; see `hypersphere.Spread`."""
        layers = nn.ModuleDict({"network": self.objective.network, "head": self.objective.head})
        power = self.settings.energy.power if self.settings.energy is not None else 2.0
        row: dict[str, float | None] = {}
        for layer, found in spread_of_layers(layers, power).items():
            for name in ("energy", "excess", "mean_nearest", "min_angle", "redundancy"):
                value: float = getattr(found, name)
                row[f"spread/{layer.removeprefix('network.')}/{name}"] = value if math.isfinite(value) else None
        return row

    def _warn_at_chance(self, step: int) -> None:
        """Say once that nothing is learnt: the commonest failure of A-Softmax from scratch."""
        assert self.history is not None
        classes = len(self.objective.head.weight)  # type: ignore[arg-type]
        rows = self.history.rows[-5:]
        if self.warned or step < self.settings.max_iter / 4 or len(rows) < 5 or classes < 2:
            return
        chance = math.log(classes)
        if all(abs(row["loss"] - chance) < 0.01 * chance and row["accuracy"] < 3 / classes for row in rows):
            self.warned = True
            warnings.warn(
                f"{self.folder}: the loss stays at {chance:.3f} = ln({classes}), which is chance: nothing is learnt; "
                "let lambda fall more slowly (smaller gamma), start from a model trained with a smaller m, or change "
                "base_lr or batch_size",
                stacklevel=2,
            )


def _digest(settings: SolverSettings, crops: CropDataset) -> str:
    """Of what decides the result, except the crops' pixels and the initial weights."""
    digest = hashlib.sha256(settings.model_dump_json(exclude={"checkpoint_every"}).encode())
    digest.update(crops.labels.numpy().tobytes())
    digest.update("\0".join(path.name for path in crops.paths).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
