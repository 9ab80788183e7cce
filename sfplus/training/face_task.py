"""Face recognition as a task of the training engine: SGD on aligned crops."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sfplus.artifacts.settings import fields_without_effect
from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.device import Device
from sfplus.errors import DatasetError
from sfplus.hypersphere import AdaFace, Head, ShardedHead, measure_layer_uniformity
from sfplus.io.console import first_names
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.augment import distort, draw_distortions
from sfplus.training.batch_norm import synchronise_batch_norm
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import OnStep, Row, Task, train
from sfplus.training.head_ops import average_gradients, clip_gradients, count_classes, head_accuracy, head_energy
from sfplus.training.optimizer import create_caffe_sgd, set_learning_rate
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

    The crops and mirror flips of a step are a function of settings and step, so that an interrupted run ends with the
    same bits as an uninterrupted one (same device, threads and number of processes; on GPUs not with `lsoftmax` and
    energies of mode `caffe`, whose sums torch computes in any order there). After SIGINT or SIGTERM the current step is
    finished and a checkpoint is written before the signal takes its usual effect; a second signal acts at once.

    Under `accelerate launch` or torchrun each process takes its slice of the global batch and only the first one
    writes. Gradients and energies are those of the global batch, whatever the number of processes. Head and losses are
    float32 in every precision.

    Batch normalisation is the exception. On GPUs torch's modules are converted in place to `nn.SyncBatchNorm`, which
    normalises over all processes; on CPUs, and for the classes of other libraries, the share of each process is
    normalised. With `accumulate`, each pass is normalised. A warning is given where this is less than the global batch,
    because the result then depends on the division.

    Args:
        network: (N, 3, H, W) -> (N, F), with its initial weights.
        head: one of `hypersphere.HEADS` for as many classes as `crops` has, or a sharded one; see
            `head_ops.create_head`.
        crops: the training set.
        settings: settings of the run. The digest that a checkpoint must match covers all that change the result. The
            descriptions of network and head are not used.
        folder: folder of `checkpoint-*/`, `history.jsonl`, `timings.jsonl` and `tensorboard/`; created if missing.
        device: where to train; with several processes on GPUs each takes its own GPU.
        on_step: called after each step with its number and, at logged steps, the row of the history with
            `crops_per_second` (else an empty dict). An exception that it raises ends the run.
        held_out: called every `evaluate_every` steps with the network, or its running average; its results are in the
            history as `held_out/NAME`. It must not change the network.

    Returns:
        `steps`, `seconds` of this call, and `loss` (of the head, without the energy) and `accuracy` (without
        margin, on training batches) averaged over the logged rows of the last tenth of the run; nan in processes
        other than the first.

    Raises:
        TrainingError: If the loss or a weight is not finite (checked when a row or a checkpoint is due), the
            checkpoint was made with other settings or crops, the disk is full, or another process is gone.
        UsageError: If the batch cannot be divided among the processes.
        DatasetError: If a label is beyond the head's classes, there is one class only, or crops differ in size.
        PhotoError: If a crop cannot be decoded.
    """
    processes, settings = ProcessGroup(device), settings.in_steps(len(crops))
    task = FaceTask(network, head, crops, settings, processes, held_out)
    summary = train(task, settings, folder, processes, on_step)
    task.finish()
    return summary


class FaceTask(Task):
    """Network, head and optionally the energy of the classifier weights, trained on crops; see `fit`."""

    averaged = ("loss", "accuracy")
    remedy = "use a smaller base_lr, start from a model trained with a smaller m, or a larger lambda_min"

    def __init__(
        self,
        network: nn.Module,
        head: Head | ShardedHead,
        crops: CropDataset | PackedCrops,
        settings: SolverSettings,
        processes: ProcessGroup,
        held_out: HeldOut | None = None,
    ) -> None:
        self.classes = count_classes(head)
        _check_people(crops, self.classes, warn=processes.is_first)
        processes.share(settings.batch_size, settings.accumulate)
        network = synchronise_batch_norm(network, processes, settings.batch_size, settings.accumulate)
        self.network, self.head, self.crops, self.settings, self.processes = network, head, crops, settings, processes
        self.held_out = held_out
        if isinstance(head, AdaFace):
            head.synchronised = processes.count > 1
        self.trained = nn.ModuleDict({"network": network, "head": head})
        processes.device.move(self.trained)
        sharded = isinstance(head, ShardedHead)  # no process has all its classes
        self.measured = nn.ModuleDict({"network": network}) if sharded else self.trained
        modules = nn.ModuleDict({"network": network, "head": head})
        self.average: AveragedModel | None = None
        if settings.ema:
            decay = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
            self.average = modules["average"] = AveragedModel(self.trained, multi_avg_fn=decay)
        self.modules = modules
        self.forward = torch.compile(network) if settings.compile else network
        self.optimizer = create_caffe_sgd(
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
        """Return crops, uint8 RGB (B, H, W, 3), half of them mirrored, and labels (B,).

        With `augment`, the distortions (B, 7) of the crops follow; see `draw_distortions`.
        """
        settings = self.settings
        crops, labels = self.crops.batch(self.sampler(step)[share])
        flip = torch.from_numpy(draw_flips(step, settings)[share])
        crops[flip] = crops[flip].flip(2)
        if not settings.augment:
            return crops, labels
        return crops, labels, draw_distortions(step, settings.batch_size, settings.seed, settings.augment)[share]

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """Perform one step of SGD on gradients of one pass or of several."""
        set_learning_rate(self.optimizer, learning_rate(step, self.settings), caffe_momentum=True)
        self.optimizer.zero_grad()
        passes = self.settings.accumulate
        buffers = self.head.named_buffers() if passes > 1 else ()
        counters = {name: b.clone() for name, b in buffers if not b.is_floating_point()}
        energy: Tensor | None = None
        measurements: list[Tensor] = []
        for number, (crops, labels, *distortions) in enumerate(
            zip(*(part.chunk(passes) for part in batch), strict=True)
        ):
            if number:
                self._restore_counters(counters)
            inputs = distort(normalize_crops(crops), *distortions) if distortions else normalize_crops(crops)
            with self.processes.device.autocast(self.settings.precision):
                features = self.forward(inputs)
            features = features.to(self.head.weight.dtype)
            loss = self.head.loss(features, labels) / passes
            total = loss
            if number == 0 and self.settings.energy is not None:
                energy = head_energy(self.head, batch[1], self.settings.energy, self.processes)
                total = loss + self.settings.energy.weight * energy
            if measure:  # before the step changes the classifier weights
                measurements.append(self._measure(loss, features, labels))
            self._backward(total)
        self._step()
        if not measure:
            return None
        loss, accuracy, length = torch.stack(measurements).sum(0)
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
        """Describe lambda and the learning rate."""
        return f"lambda {self.head.current_lambda:.4g}, learning rate {learning_rate(step, self.settings):.4g}"

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Add the spread of the neurons of each layer and of the classifier weights, and the held-out evaluation."""
        if len(earlier) % self.settings.spread_every == 0 or row["step"] == self.settings.max_iter:
            power = self.settings.energy.power if self.settings.energy is not None else 2.0
            for layer, uniformity in measure_layer_uniformity(self.measured, power).items():
                for name in ("energy", "excess", "mean_nearest", "min_angle", "redundancy"):
                    value: float = getattr(uniformity, name)
                    row[f"spread/{layer.removeprefix('network.')}/{name}"] = value if math.isfinite(value) else None
        every = self.settings.evaluate_every
        if self.held_out and every and (row["step"] % every == 0 or row["step"] == self.settings.max_iter):
            network = self.network if self.average is None else self.average.module.get_submodule("network")
            row |= {f"held_out/{name}": value for name, value in self.held_out(network).items()}
        self._warn_at_chance([*earlier[-4:], row])

    def finish(self) -> None:
        """Replace the weights by their running average, if there is one."""
        if self.average is not None:
            self.trained.load_state_dict(self.average.module.state_dict())

    def _restore_counters(self, counters: Mapping[str, Tensor]) -> None:
        """Reset counters of forward passes, so that all passes of a batch count as one and have the same lambda."""
        for name, buffer in self.head.named_buffers():
            if name in counters:
                buffer.copy_(counters[name])

    @torch.no_grad()
    def _measure(self, loss: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Return the share of one pass in loss, accuracy without margin and mean length of a feature, (3,)."""
        means = torch.stack([head_accuracy(self.head, features, labels), features.norm(dim=1).mean()])
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
        """Warn once if the loss stays at chance, the most common failure of A-Softmax from scratch."""
        if self.warned or rows[-1]["step"] < self.settings.max_iter / 4 or len(rows) < 5:
            return
        chance = math.log(self.classes)
        if all(abs(row["loss"] - chance) < 0.01 * chance and row["accuracy"] < 3 / self.classes for row in rows):
            self.warned = True
            warnings.warn(
                f"the loss stays at {chance:.3f} = ln({self.classes}), which is chance: the network learns nothing; "
                "let lambda fall more slowly (smaller gamma), start from a model trained with a smaller m, or change "
                "base_lr or batch_size",
                stacklevel=2,
            )


def _check_people(crops: CropDataset | PackedCrops, classes: int, warn: bool) -> None:
    """Refuse labels beyond the head and a single class; warn of classes with no crop or one crop."""
    labels = crops.labels
    if int(labels.max()) >= classes:
        what = f"label {int(labels.max())} is beyond the {classes} classes of the head"
        raise DatasetError(what, where="crops", remedy="create the head for as many people as there are")
    if classes < 2:
        raise DatasetError("there is only 1 person", where="crops", remedy="training needs at least two people")
    counts = torch.bincount(labels, minlength=classes)
    for number, description in ((0, "no crop"), (1, "one crop")) if warn else ():
        if few := (counts == number).nonzero().flatten().tolist():
            names = first_names([crops.people[label] if crops.people else f"label {label}" for label in few])
            warnings.warn(
                f"{len(few)} of {classes} people {'has' if len(few) == 1 else 'have'} {description}: {names}",
                stacklevel=2,
            )


def _digest(settings: SolverSettings, crops: CropDataset | PackedCrops) -> str:
    """Digest everything that decides the result, except the pixels of unpacked crops and the initial weights."""
    decisive = settings.model_dump_json(exclude=fields_without_effect(settings))
    return hashlib.sha256((decisive + crops.digest).encode()).hexdigest()
