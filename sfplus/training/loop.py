"""Training of faces: SGD on aligned crops, a task of `engine.py`."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.datasets.crops import Crops
from sfplus.device import Device
from sfplus.errors import DatasetError
from sfplus.hypersphere import class_energy, spread_of_layers
from sfplus.networks import to_input
from sfplus.training.batches import draw_batch
from sfplus.training.engine import OnStep, Row, Task, train
from sfplus.training.optimizer import create_optimizer, set_learning_rate
from sfplus.training.processes import Processes
from sfplus.training.resume import Stateful
from sfplus.training.schedule import learning_rate
from sfplus.training.settings import SolverSettings


def fit(
    network: nn.Module,
    head: nn.Module,
    crops: Crops,
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
    processes = Processes(device)
    return train(FaceTask(network, head, crops, settings, processes), settings, folder, processes, on_step)


class FaceTask(Task):
    """Network, head and, where asked for, the energy of the classifiers, on crops; see `fit`."""

    averaged = ("loss", "accuracy")
    remedy = "use a smaller base_lr, start from a model trained with a smaller m, or a larger lambda_min"

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        crops: Crops,
        settings: SolverSettings,
        processes: Processes,
    ) -> None:
        self.classes = len(head.weight)  # type: ignore[arg-type]
        if int(crops.labels.max()) >= self.classes:
            what = f"label {int(crops.labels.max())} is beyond the {self.classes} classes of the head"
            raise DatasetError(what, where="crops", remedy="make the head for as many people as there are")
        self.network, self.head, self.crops, self.settings, self.processes = network, head, crops, settings, processes
        self.modules = processes.device.place(nn.ModuleDict({"network": network, "head": head}))
        self.optimizer = create_optimizer(
            self.modules, lr=settings.base_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.optimizers: dict[str, Stateful] = {"sgd": self.optimizer}
        self.scaler = processes.device.scaler(settings.precision)
        if self.scaler is not None:
            self.optimizers["scaler"] = self.scaler
        self.digest = _digest(settings, crops)
        self.warned = False

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Crops, uint8 RGB (B, H, W, 3), half of them mirrored, and labels (B,)."""
        indices, flips = draw_batch(step, len(self.crops), self.settings)
        crops, labels = self.crops.batch(indices[share])
        flip = torch.from_numpy(flips[share])
        crops[flip] = crops[flip].flip(2)
        return crops, labels

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """One step of SGD."""
        crops, labels = batch
        set_learning_rate(self.optimizer, self._rate(step))
        with self.processes.device.autocast(self.settings.precision):
            features = self.network(to_input(crops))
        features = features.float()
        loss = self.head.loss(features, labels)  # type: ignore[operator]
        energy = self._energy(labels)
        total = loss if energy is None else loss + self.settings.energy.weight * energy  # type: ignore[union-attr]
        accuracy = self._accuracy(features, labels) if measure else None  # before the step changes the classifiers
        self.optimizer.zero_grad()
        self._step(total)
        if not measure:
            return None
        return {
            "epoch": step * self.settings.batch_size / len(self.crops),
            "loss": loss,
            "accuracy": accuracy,
            "lambda": self._lambda(),
            "lr": self._rate(step),
            "energy": energy,
            "feature_length": features.detach().norm(dim=1).mean(),
        }

    def describe(self, step: int) -> str:
        """Where lambda and the learning rate are."""
        return f"lambda {self._lambda():.4g}, learning rate {self._rate(step):.4g}"

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Add how the neurons of each layer and the classifiers are spread; see `hypersphere.Spread`."""
        power = self.settings.energy.power if self.settings.energy is not None else 2.0
        for layer, found in spread_of_layers(self.modules, power).items():
            for name in ("energy", "excess", "mean_nearest", "min_angle", "redundancy"):
                value: float = getattr(found, name)
                row[f"spread/{layer.removeprefix('network.')}/{name}"] = value if math.isfinite(value) else None
        self._warn_at_chance([*earlier[-4:], row])

    def _step(self, loss: Tensor) -> None:
        parameters = self.modules.parameters()
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            self.processes.average_gradients(parameters)
            self.optimizer.step()
            return
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _energy(self, labels: Tensor) -> Tensor | None:
        """Of the global batch: only that of mode `paper` is the mean of the processes' own."""
        energy, weight = self.settings.energy, self.head.weight
        if energy is None:
            return None
        if energy.mode != "paper":
            labels = self.processes.gather(labels)
        return class_energy(weight, labels, energy.power, energy.mode)  # type: ignore[arg-type]

    @torch.no_grad()
    def _accuracy(self, features: Tensor, labels: Tensor) -> Tensor:
        right: Tensor = self.head.predict(features).argmax(1) == labels  # type: ignore[operator]
        return right.float().mean()

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.settings.base_lr, self.settings.steps, self.settings.lr_gamma)

    def _lambda(self) -> float:
        value: Any = self.head.current_lambda
        return float(value)

    def _warn_at_chance(self, rows: Sequence[Row]) -> None:
        """Say once that nothing is learnt: the commonest failure of A-Softmax from scratch."""
        if self.warned or rows[-1]["step"] < self.settings.max_iter / 4 or len(rows) < 5 or self.classes < 2:
            return
        chance = math.log(self.classes)
        if all(abs(row["loss"] - chance) < 0.01 * chance and row["accuracy"] < 3 / self.classes for row in rows):
            self.warned = True
            warnings.warn(
                f"the loss stays at {chance:.3f} = ln({self.classes}), which is chance: nothing is learnt; "
                "let lambda fall more slowly (smaller gamma), start from a model trained with a smaller m, or change "
                "base_lr or batch_size",
                stacklevel=2,
            )


def _digest(settings: SolverSettings, crops: Crops) -> str:
    """Of what decides the result, except the crops' pixels and the initial weights."""
    digest = hashlib.sha256(settings.model_dump_json(exclude={"checkpoint_every", "keep"}).encode())
    digest.update(crops.digest.encode())
    return digest.hexdigest()
