"""Face recognition as a task of the training engine: SGD on aligned crops."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.artifacts.settings import fields_without_effect
from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.device import Device
from sfplus.hypersphere import AdaFace, Head, ShardedHead, measure_layer_uniformity
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.energy import EnergySettings
from sfplus.recipes.settings.own_code import OwnEnergySettings
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.augment import distort, draw_distortions
from sfplus.training.batch_norm import synchronise_batch_norm
from sfplus.training.distributed import ProcessGroup, has_unused_parameters
from sfplus.training.engine import OnStep, Row, Task, train
from sfplus.training.head_checks import check_people, warn_at_chance
from sfplus.training.head_ops import FaceLosses, clip_gradients, count_classes, head_accuracy, head_energy
from sfplus.training.optimizer import RunningAverage, create_caffe_sgd, set_learning_rate
from sfplus.training.own_energy import OwnEnergy
from sfplus.training.sampling import create_sampler, draw_flips
from sfplus.training.schedule import learning_rate
from sfplus.training.teacher import Distillation
from sfplus.training.train_state import Stateful

HeldOut = Callable[[nn.Module], Mapping[str, float]]


def fit(
    network: nn.Module,
    head: Head | ShardedHead | None,
    crops: CropDataset | PackedCrops,
    settings: SolverSettings,
    folder: Path,
    device: Device,
    on_step: OnStep | None = None,
    held_out: HeldOut | None = None,
    teacher: Distillation | None = None,
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
            `head_ops.create_head`. None where only the teacher is learned; labels are then ignored.
        crops: the training set.
        settings: settings of the run. The digest that a checkpoint must match covers all that change the result. The
            descriptions of network and head are not used.
        folder: folder of `checkpoint-*/`, `history.jsonl`, `timings.jsonl` and `tensorboard/`; created if missing.
        device: where to train; with several processes on GPUs each takes its own GPU.
        on_step: called after each step with its number and, at logged steps, the row of the history with
            `crops_per_second` (else an empty dict). An exception that it raises ends the run.
        held_out: called every `evaluate_every` steps with the network, or its running average; its results are in the
            history as `held_out/NAME`. It must not change the network.
        teacher: the features of a teacher, which are learned beside the head or alone. The history then has the mean
            cosine to the teacher, `teacher_cosine`, and the loss, `distillation`, which is also the `loss` if there is
            no head.

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
    task = FaceTask(network, head, crops, settings, processes, held_out, teacher)
    summary = train(task, settings, folder, processes, on_step)
    task.finish()
    return summary


class FaceTask(Task):
    """Network, head and optionally the energy of the classifier weights, trained on crops; see `fit`."""

    averaged: Sequence[str] = ("loss", "accuracy")
    remedy = "use a smaller base_lr, start from a model trained with a smaller m, or a larger lambda_min"

    def __init__(
        self,
        network: nn.Module,
        head: Head | ShardedHead | None,
        crops: CropDataset | PackedCrops,
        settings: SolverSettings,
        processes: ProcessGroup,
        held_out: HeldOut | None = None,
        teacher: Distillation | None = None,
    ) -> None:
        if head is None:
            self.averaged = ("loss",)
        else:
            check_people(crops, count_classes(head), warn=processes.is_first)
        processes.share(settings.batch_size, settings.accumulate)
        network = synchronise_batch_norm(network, processes, settings.batch_size, settings.accumulate)
        self.network, self.head, self.crops, self.settings, self.processes = network, head, crops, settings, processes
        self.held_out, self.teacher = held_out, teacher
        if isinstance(head, AdaFace):
            head.synchronised = processes.count > 1
        self.measured = nn.ModuleDict({"network": network})
        if isinstance(head, Head):  # of a sharded head, no process has all classes
            self.measured["head"] = head
        self.trained = nn.ModuleDict({"network": network} | ({} if head is None else {"head": head}))
        if teacher is not None and teacher.map is not None:
            self.trained["teacher_map"] = teacher.map
        processes.device.move(self.trained)
        own_settings = settings.energy if isinstance(settings.energy, OwnEnergySettings) and head is not None else None
        self.own_energy = None if own_settings is None else OwnEnergy(own_settings, self.measured)
        modules = nn.ModuleDict(dict(self.trained.items()))
        self.average: RunningAverage | None = None
        if settings.ema:
            self.average = modules["average"] = RunningAverage(self.trained, settings.ema)
        self.modules = modules
        self.losses = self._prepare(network)
        self.optimizer = create_caffe_sgd(
            self.trained, lr=settings.base_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.optimizers: dict[str, Stateful] = {"sgd": self.optimizer}
        self.scaler = processes.scaler(settings.precision)
        if self.scaler is not None:
            self.optimizers["scaler"] = self.scaler
        self.digest = _digest(settings, crops, teacher)
        self.sampler = create_sampler(crops.labels.numpy(), settings)
        self.warned = False

    def _prepare(self, network: nn.Module) -> nn.Module:
        """Return the module that computes features and losses, and averages gradients over the processes."""
        device, precision = self.processes.device, self.settings.precision
        called: Any = torch.compile(network) if self.settings.compile else network
        losses = FaceLosses(called, self.head, self.teacher, lambda: device.autocast(precision))
        size = (3, self.crops.height, self.crops.width)
        unused = self.processes.count > 1 and has_unused_parameters(network, size)
        # the gradients of a shard cover the global batch already
        names = losses.state_dict() if isinstance(self.head, ShardedHead) else ()
        local = [name for name in names if name.startswith("head.")]
        return self.processes.prepare(losses, local=local, unused=unused)

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Return crops, uint8 RGB (B, H, W, 3), half of them mirrored, and labels (B,).

        With `augment`, the distortions (B, 7) of the crops follow, see `draw_distortions`; with a teacher, its
        features (B, F).
        """
        settings, indices = self.settings, self.sampler(step)[share]
        crops, labels = self.crops.batch(indices)
        flip = torch.from_numpy(draw_flips(step, settings)[share])
        crops[flip] = crops[flip].flip(2)
        batch = [crops, labels]
        if settings.augment:
            batch.append(draw_distortions(step, settings.batch_size, settings.seed, settings.augment)[share])
        if self.teacher is not None:
            batch.append(self.teacher.batch(indices))
        return tuple(batch)

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """Perform one step of SGD on gradients of one pass or of several."""
        set_learning_rate(self.optimizer, learning_rate(step, self.settings), caffe_momentum=True)
        self.optimizer.zero_grad()
        passes = self.settings.accumulate
        buffers = self.head.named_buffers() if self.head is not None and passes > 1 else ()
        counters = {name: b.clone() for name, b in buffers if not b.is_floating_point()}
        energy: Tensor | None = None
        measurements: list[Row] = []
        for number, part in enumerate(zip(*(tensor.chunk(passes) for tensor in batch), strict=True)):
            if number:
                self._restore_counters(counters)
            last = number == passes - 1
            with contextlib.nullcontext() if last else self.processes.no_exchange(self.losses):
                features, losses = self._losses(*part)
                total = torch.stack(list(losses.values())).sum() / passes
                if number == 0 and self.settings.energy is not None and self.head is not None:
                    custom, chosen = self.own_energy, self.settings.energy
                    energy = custom.unweighted() if custom else head_energy(self.head, batch[1], chosen, self.processes)
                    total = total + self.settings.energy.weight * energy
                if measure:  # before the step changes the classifier weights
                    taught = None if self.teacher is None else part[-1]
                    measurements.append(self._measure(losses, features, part[1], taught))
                self._backward(total)
        self._step()
        if not measure:
            return None
        means = {
            name: None if value is None else torch.stack([row[name] / passes for row in measurements]).sum(0)
            for name, value in measurements[0].items()
        }
        return {
            "epoch": step * self.settings.batch_size / len(self.crops),
            "loss": means.pop("loss"),
            "accuracy": means.pop("accuracy"),
            "lambda": None if self.head is None else self.head.current_lambda,
            "lr": learning_rate(step, self.settings),
            "energy": energy,
            **means,
        }

    def _losses(self, crops: Tensor, labels: Tensor, *extra: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features and losses of one pass; `extra` has distortions and the teacher's features, if used."""
        taught = () if self.teacher is None else extra[-1:]
        inputs = normalize_crops(crops)
        if self.settings.augment:
            inputs = distort(inputs, extra[0])
        features, losses = self.losses(inputs, labels, *taught)
        return features, losses

    def describe(self, step: int) -> str:
        """Describe lambda and the learning rate."""
        annealing = "" if self.head is None else f"lambda {self.head.current_lambda:.4g}, "
        return f"{annealing}learning rate {learning_rate(step, self.settings):.4g}"

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Add the spread of the neurons of each layer and of the classifier weights, and the held-out evaluation."""
        if len(earlier) % self.settings.spread_every == 0 or row["step"] == self.settings.max_iter:
            power = self.settings.energy.power if isinstance(self.settings.energy, EnergySettings) else 2.0
            for layer, uniformity in measure_layer_uniformity(self.measured, power).items():
                for name in ("energy", "excess", "mean_nearest", "min_angle", "redundancy"):
                    value: float = getattr(uniformity, name)
                    row[f"spread/{layer.removeprefix('network.')}/{name}"] = value if math.isfinite(value) else None
        every = self.settings.evaluate_every
        if self.held_out and every and (row["step"] % every == 0 or row["step"] == self.settings.max_iter):
            network = self.network if self.average is None else self.average.module.get_submodule("network")
            row |= {f"held_out/{name}": value for name, value in self.held_out(network).items()}
        if self.head is not None and not self.warned and row["step"] >= self.settings.max_iter / 4:
            self.warned = warn_at_chance([*earlier[-4:], row], count_classes(self.head))

    def finish(self) -> None:
        """Replace the weights by their running average, if there is one."""
        if self.average is not None:
            self.trained.load_state_dict(self.average.module.state_dict())

    def _restore_counters(self, counters: Mapping[str, Tensor]) -> None:
        """Reset counters of forward passes, so that all passes of a batch count as one and have the same lambda."""
        for name, buffer in self.head.named_buffers() if self.head is not None else ():
            if name in counters:
                buffer.copy_(counters[name])

    @torch.no_grad()
    def _measure(self, losses: dict[str, Tensor], features: Tensor, labels: Tensor, taught: Tensor | None) -> Row:
        """Return the values of a row for one pass: losses, accuracy without margin, length of a feature, cosine."""
        accuracy = None if self.head is None else head_accuracy(self.head, features, labels)
        row: Row = {"accuracy": accuracy, "feature_length": features.norm(dim=1).mean(), **losses}
        if self.teacher is not None and taught is not None:
            row["teacher_cosine"] = self.teacher.mean_cosine(features, taught)
            row.setdefault("loss", losses["distillation"])
        return row

    def _backward(self, loss: Tensor) -> None:
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.settings.clip is not None:
            clip_gradients(self.trained, self.head, self.settings.clip, self.processes)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.trained)


def _digest(settings: SolverSettings, crops: CropDataset | PackedCrops, teacher: Distillation | None) -> str:
    """Digest everything that decides the result, except the pixels of unpacked crops and the initial weights."""
    decisive = settings.model_dump_json(exclude=fields_without_effect(settings))
    taught = teacher.features.digest if teacher is not None else ""
    return hashlib.sha256((decisive + crops.digest + taught).encode()).hexdigest()
