"""Training of faces: SGD on aligned crops, a task of `engine.py`."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.device import Device
from sfplus.errors import DatasetError
from sfplus.hypersphere import AdaFace, Head, ShardedHead, measure_layer_uniformity
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.engine import INDIFFERENT
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.augment import distort, draw_distortions
from sfplus.training.batch_norm import normalised_together
from sfplus.training.distributed import Processes
from sfplus.training.engine import OnStep, Row, Task, train
from sfplus.training.head_ops import accuracy_of, average_gradients, clip_gradients, count_classes, energy_of
from sfplus.training.optimizer import create_optimizer, set_learning_rate
from sfplus.training.sampling import create_sampler, draw_flips
from sfplus.training.schedule import learning_rate
from sfplus.training.train_state import Stateful

HeldOut = Callable[[nn.Module], Mapping[str, float]]


def fit(
    network: nn.Module,
    head: Head | ShardedHead,
    crops: CropDataset | PackedCrops,
    settings: SolverSettings,
    folder: Path,
    device: Device,
    on_step: OnStep | None = None,
    held_out: HeldOut | None = None,
) -> dict[str, float]:
    """Train network and head in place, from the newest checkpoint in `folder` or from step 1, up to `max_iter`.

    The crops and mirror flips of a step are a function of settings and step, so that a run that was interrupted ends
    with the bits of one that was not (same device, threads and number of processes; on GPUs not with `lsoftmax` and
    energies of mode `caffe`, whose sums torch takes in any order there). SIGINT and SIGTERM are answered
    after the current step with a checkpoint and then take their usual effect; a second one acts at once.

    Under `accelerate launch` or torchrun each process takes its slice of the global batch and only the first one
    writes. Gradients and energies are those of the global batch, whatever the number of processes. Head and losses are
    float32 in every precision.

    Batch normalisation is the exception. On GPUs torch's own is turned, in place, into `nn.SyncBatchNorm`, which
    normalises over all processes; on CPUs, and other libraries' own kinds, over the share of each. With `accumulate`
    it is over a pass. Where that is less than the global batch, so that the result depends on it, a warning says so.

    Args:
        network: (N, 3, H, W) -> (N, F), with its starting weights.
        head: one of `hypersphere.HEADS`, for as many classes as `crops` has, or sharded; see `classifiers.create_head`.
        crops: what to learn from.
        settings: of the run; all of them but `checkpoint_every` and `keep` are part of the digest that a checkpoint
            must match. What describes network and head is not read: they are given.
        folder: for `checkpoint-*/`, `history.jsonl`, `timings.jsonl` and `tensorboard/`; created where missing.
        device: where to train; with several processes on GPUs each takes its own.
        on_step: called after each step with its number and, at logged steps, the row of the history with
            `crops_per_second` (else an empty dict). What it raises ends the run.
        held_out: called every `evaluate_every` steps with the network, or its running average; what it finds is in the
            history as `held_out/NAME`. It must leave no trace in the network.

    Returns:
        `steps`, `seconds` of this call, and `loss` (of the head, without the energy) and `accuracy` (without
        margin, on training batches) averaged over the logged rows of the last tenth of the run; nan in processes
        other than the first.

    Raises:
        TrainingError: the loss or a weight is not finite (looked at when a row or a checkpoint is due), the
            checkpoint was made with other settings or crops, the disk is full, or another process is gone.
        UsageError: the batch cannot be divided among the processes.
        DatasetError: a label is beyond the head's classes, there is one class only, or a crop has another size than
            the others.
        PhotoError: a crop cannot be decoded.
    """
    processes, settings = Processes(device), settings.in_steps(len(crops))
    task = FaceTask(network, head, crops, settings, processes, held_out)
    summary = train(task, settings, folder, processes, on_step)
    task.finish()
    return summary


class FaceTask(Task):
    """Network, head and, where asked for, the energy of the classifiers, on crops; see `fit`."""

    averaged = ("loss", "accuracy")
    remedy = "use a smaller base_lr, start from a model trained with a smaller m, or a larger lambda_min"

    def __init__(
        self,
        network: nn.Module,
        head: Head | ShardedHead,
        crops: CropDataset | PackedCrops,
        settings: SolverSettings,
        processes: Processes,
        held_out: HeldOut | None = None,
    ) -> None:
        self.classes = count_classes(head)
        _check_people(crops.labels, self.classes, say=processes.is_first)
        processes.share(settings.batch_size, settings.accumulate)
        network = normalised_together(network, processes, settings.batch_size, settings.accumulate)
        self.network, self.head, self.crops, self.settings, self.processes = network, head, crops, settings, processes
        self.held_out = held_out
        if isinstance(head, AdaFace):
            head.synchronised = processes.count > 1
        self.trained = nn.ModuleDict({"network": network, "head": head})
        processes.device.place(self.trained)
        parted = isinstance(head, ShardedHead)  # of which no process sees all classes
        self.spread_out = nn.ModuleDict({"network": network}) if parted else self.trained
        modules = nn.ModuleDict({"network": network, "head": head})
        self.average: AveragedModel | None = None
        if settings.ema:
            decay = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
            self.average = modules["average"] = AveragedModel(self.trained, multi_avg_fn=decay)
        self.modules = modules
        self.forward = torch.compile(network) if settings.compile else network
        self.optimizer = create_optimizer(
            self.trained, lr=settings.base_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.optimizers: dict[str, Stateful] = {"sgd": self.optimizer}
        self.scaler = processes.device.scaler(settings.precision)
        if self.scaler is not None:
            self.optimizers["scaler"] = self.scaler
        self.digest = _digest(settings, crops)
        self.sampler = create_sampler(crops.labels.numpy(), settings)
        self.warned = False

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Crops, uint8 RGB (B, H, W, 3), half of them mirrored, labels (B,), and where asked for distortions (B, 7)."""
        settings = self.settings
        crops, labels = self.crops.batch(self.sampler(step)[share])
        flip = torch.from_numpy(draw_flips(step, settings)[share])
        crops[flip] = crops[flip].flip(2)
        if not settings.augment:
            return crops, labels
        return crops, labels, draw_distortions(step, settings.batch_size, settings.seed, settings.augment)[share]

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """One step of SGD, its gradients from one pass or several."""
        set_learning_rate(self.optimizer, learning_rate(step, self.settings))
        self.optimizer.zero_grad()
        passes = self.settings.accumulate
        buffers = self.head.named_buffers() if passes > 1 else ()
        counters = {name: b.clone() for name, b in buffers if not b.is_floating_point()}
        energy: Tensor | None = None
        found: list[Tensor] = []
        for number, (crops, labels, *distortions) in enumerate(
            zip(*(part.chunk(passes) for part in batch), strict=True)
        ):
            if number:
                self._count_back(counters)
            ready = distort(normalize_crops(crops), *distortions) if distortions else normalize_crops(crops)
            with self.processes.device.autocast(self.settings.precision):
                features = self.forward(ready)
            features = features.to(self.head.weight.dtype)
            loss = self.head.loss(features, labels) / passes
            total = loss
            if number == 0 and self.settings.energy is not None:
                energy = energy_of(self.head, batch[1], self.settings.energy, self.processes)
                total = loss + self.settings.energy.weight * energy
            if measure:  # before the step changes the classifiers
                found.append(self._measure(loss, features, labels))
            self._backward(total)
        self._step()
        if not measure:
            return None
        loss, accuracy, length = torch.stack(found).sum(0)
        return {
            "epoch": step * self.settings.batch_size / len(self.crops),
            "loss": loss,
            "accuracy": accuracy,
            "lambda": self.head.current_lambda,
            "lr": learning_rate(step, self.settings),
            "energy": energy,
            "feature_length": length,
        }

    def describe(self, step: int) -> str:
        """Where lambda and the learning rate are."""
        return f"lambda {self.head.current_lambda:.4g}, learning rate {learning_rate(step, self.settings):.4g}"

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Add how the neurons of each layer and the classifiers are spread, and how the held-out pairs are told."""
        if len(earlier) % self.settings.spread_every == 0 or row["step"] == self.settings.max_iter:
            power = self.settings.energy.power if self.settings.energy is not None else 2.0
            for layer, spread in measure_layer_uniformity(self.spread_out, power).items():
                for name in ("energy", "excess", "mean_nearest", "min_angle", "redundancy"):
                    value: float = getattr(spread, name)
                    row[f"spread/{layer.removeprefix('network.')}/{name}"] = value if math.isfinite(value) else None
        every = self.settings.evaluate_every
        if self.held_out and every and (row["step"] % every == 0 or row["step"] == self.settings.max_iter):
            network = self.network if self.average is None else self.average.module.get_submodule("network")
            row |= {f"held_out/{name}": value for name, value in self.held_out(network).items()}
        self._warn_at_chance([*earlier[-4:], row])

    def finish(self) -> None:
        """Let the running average be the weights, where there is one."""
        if self.average is not None:
            self.trained.load_state_dict(self.average.module.state_dict())

    def _count_back(self, counters: Mapping[str, Tensor]) -> None:
        """What counts forward passes counts all passes of a batch as one, so that they have the same lambda."""
        for name, buffer in self.head.named_buffers():
            if name in counters:
                buffer.copy_(counters[name])

    @torch.no_grad()
    def _measure(self, loss: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Parts of the loss, of the accuracy without margin and of the mean length of a feature, of one pass."""
        means = torch.stack([accuracy_of(self.head, features, labels), features.norm(dim=1).mean()])
        return torch.cat([loss[None], means / self.settings.accumulate])

    def _backward(self, loss: Tensor) -> None:
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        average_gradients(self.network, self.head, self.processes)
        if self.settings.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            clip_gradients(self.network, self.head, self.settings.clip, self.processes)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.trained)

    def _warn_at_chance(self, rows: Sequence[Row]) -> None:
        """Say once that nothing is learnt: the commonest failure of A-Softmax from scratch."""
        if self.warned or rows[-1]["step"] < self.settings.max_iter / 4 or len(rows) < 5:
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


def _check_people(labels: Tensor, classes: int, say: bool) -> None:
    """Refuse labels beyond the head and a single class; say of how many classes there is little or nothing."""
    if int(labels.max()) >= classes:
        what = f"label {int(labels.max())} is beyond the {classes} classes of the head"
        raise DatasetError(what, where="crops", remedy="make the head for as many people as there are")
    if classes < 2:
        raise DatasetError("1 person to tell apart", where="crops", remedy="training needs at least two people")
    counts = torch.bincount(labels, minlength=classes)
    for crops, said in ((0, "no crop"), (1, "one crop")) if say else ():
        if few := int((counts == crops).sum()):
            first = int((counts == crops).nonzero()[0])
            warnings.warn(f"{few} of {classes} people have {said}, the first has label {first}", stacklevel=2)


def _digest(settings: SolverSettings, crops: CropDataset | PackedCrops) -> str:
    """Of what decides the result, except the pixels of unpacked crops and the initial weights."""
    decisive = settings.model_dump_json(exclude=set(INDIFFERENT))
    return hashlib.sha256((decisive + crops.digest).encode()).hexdigest()
