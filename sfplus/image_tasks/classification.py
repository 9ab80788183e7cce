"""Classifiers of pictures as a task of the training engine: MHE, CoMHE, SphereNet and what they are compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.hypersphere import (
    AdversarialProjection,
    AngleProjection,
    GroupProjection,
    HypersphericalEnergy,
    Orthonormality,
    Projection,
    RandomProjection,
    SphereConv2d,
    orthonormal_regularizer,
)
from sfplus.image_tasks.datasets import Pictures, to_network
from sfplus.image_tasks.random_crop import centre, cut, draw_cuts
from sfplus.recipes.settings.classify import ClassifySettings, RegularizerSettings
from sfplus.training.batch_norm import normalised_together
from sfplus.training.distributed import Processes
from sfplus.training.engine import Row, Task
from sfplus.training.sampling import draw_indices
from sfplus.training.schedule import multistep

TEST_BATCH = 500


Regularizer = HypersphericalEnergy | Orthonormality


def create_regularizer(network: nn.Module, settings: RegularizerSettings) -> Regularizer | None:
    """What is added to the loss, with the weights of the released code where the settings give none."""
    if settings.mode == "none":
        return None
    if settings.mode in ("orthonormal", "orthogonal"):
        weight = 2e-4 if settings.hidden is None else settings.hidden
        return Orthonormality(network, weight, settings.mode == "orthogonal")
    angular, power = isinstance(settings.power, str), int(str(settings.power)[-1])
    scale = 0.1 if angular and power else 1.0
    return HypersphericalEnergy(
        network,
        power,
        "geodesic" if angular else "euclidean",
        settings.half_space,
        scale if settings.hidden is None else settings.hidden,
        10 * scale if settings.output is None else settings.output,
        projection=_projection(settings),
        preset=settings.preset,
    )


def _projection(settings: RegularizerSettings) -> Callable[[int], Projection] | None:
    given = {"dim": settings.dim, "iterations": settings.iterations}
    learned: Any = {name: value for name, value in given.items() if value is not None}
    if settings.mode == "comhe-random":
        # One drawing for all layers of a size: in the original their operations have the same seed.
        return functools.cache(lambda size: RandomProjection(size, settings.dim or 40, settings.count))
    if settings.mode == "comhe-angle":
        return functools.partial(AngleProjection, **learned)
    if settings.mode == "comhe-adversarial":
        return functools.partial(AdversarialProjection, **learned)
    if settings.mode == "comhe-group":
        # Filters of few weights, those on the picture itself, stay whole, as they do in the released variants.
        return lambda size: GroupProjection(size, settings.groups if size >= 9 * settings.groups else 1)
    return None


def smoothed_entropy(logits: Tensor, labels: Tensor, smoothing: float, offset: float) -> Tensor:
    """-sum_k y_k log(p_k + offset), mean of a batch: the loss of the MHE, CoMHE and SphereNet code (loss.py, `loss2`).

    y is 1 - smoothing at the label, plus smoothing over the number of classes everywhere. The offset bounds the loss,
    at -log(offset), and takes the gradient of what is hopeless.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
        smoothing: share of a label that is spread.
        offset: added to each probability; without it this is the usual cross-entropy.
    """
    logits = logits.float()
    if not offset:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    logs = torch.log(logits.softmax(1) + offset)
    own = logs.gather(1, labels[:, None]).squeeze(1)
    return -((1 - smoothing) * own + smoothing * logs.mean(1)).mean()


class ClassifyTask(Task):
    """Network, loss and regulariser; see `Task`.

    With several processes batch normalisation is over all of them on GPUs, over the share of each on CPUs.

    Args:
        network: logits of pictures.
        train: what to learn from.
        test: what to test on, every `test_every` steps.
        settings: of the run.
        processes: of the run.
        digest: of all that decides the result.
    """

    unit = "pictures"
    averaged = ("loss", "train_accuracy")

    def __init__(
        self,
        network: nn.Module,
        train: Pictures,
        test: Pictures,
        settings: ClassifySettings,
        processes: Processes,
        digest: str,
    ) -> None:
        self.settings, self.processes, self.digest = settings, processes, digest
        self.train, self.test = train, test
        network = normalised_together(network, processes, settings.batch_size, unit=self.unit)
        self.network, self.energy = network, create_regularizer(network, settings.energy)
        self.modules = nn.ModuleDict({"network": network})
        if self.energy is not None:
            self.modules["energy"] = self.energy
        self.spheres = any(isinstance(layer, SphereConv2d) for layer in network.modules()) and settings.orthonormal > 0
        self.optimizer = create_optimizer(network, settings)
        self.optimizers = {"network": self.optimizer}
        self.crop = settings.data.crop if settings.data.name == "files" else 0

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Pictures (B, H, W, C) uint8, labels (B,) and how to cut the pictures (B, 3)."""
        settings = self.settings
        indices = draw_indices(step, len(self.train.labels), settings.batch_size, settings.seed)[share]
        pictures, labels = self.train.batch(indices), self.train.labels[torch.from_numpy(indices)]
        height, width = pictures.shape[1:3]
        data = settings.data
        cuts = draw_cuts(settings.seed, step, settings.batch_size, (height, width), self._pad, self.crop, data.mirror)
        return pictures, labels, cuts[share]

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """One step of SGD or Adam; at evaluations the test set is run through too."""
        pictures, labels, cuts = batch
        settings, rate = self.settings, self._rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.processes.device.autocast(settings.precision):
            logits = self.network(to_network(cut(pictures, cuts, self._pad, self.crop)))
        entropy = smoothed_entropy(logits, labels, settings.label_smoothing, settings.offset)
        loss = entropy
        if self.energy is not None:
            self.energy.step(rate)
            loss = loss + self.energy()
        if self.spheres:
            orthonormal = orthonormal_regularizer(self.network)
            loss = loss + settings.orthonormal * orthonormal
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.network.parameters())
        self.optimizer.step()
        if not measure:
            return None
        row: Row = {"loss": entropy, "train_accuracy": (logits.argmax(1) == labels).float().mean(), "rate": rate}
        if self.spheres:
            row["orthonormality"] = orthonormal
        if self.energy is not None:
            row |= {f"energy.{name}": value for name, value in self.energy.values.items()}
        if step % settings.test_every == 0 or step == settings.max_iter:
            row["accuracy"] = (self.predict(self.test) == self.test.labels).double().mean().item()
        return row

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Add the best accuracy so far, which is what the papers give."""
        if "accuracy" in row:
            best = [old["best_accuracy"] for old in earlier if "best_accuracy" in old]
            row["best_accuracy"] = max([row["accuracy"], *best])

    def describe(self, step: int) -> str:
        """The learning rate."""
        return f"learning rate {self._rate(step):.4g}"

    def predict(self, pictures: Pictures) -> Tensor:
        """The class of each picture (N,), on the host; each process computes a part."""
        return self._over(pictures, lambda x: self.network(x).argmax(1))

    def features(self, pictures: Pictures) -> Tensor:
        """The features of each picture (N, F), on the host."""
        return self._over(pictures, lambda x: self.network.features(x).float())  # type: ignore[operator]

    @torch.no_grad()
    def _over(self, pictures: Pictures, compute: Callable[[Tensor], Tensor]) -> Tensor:
        device, processes = self.processes.device, self.processes
        processes.spread(self.network.buffers())  # batch normalisation's averages are those of the first process
        total = len(pictures.labels)
        share = -(-total // processes.count)
        indices = torch.arange(processes.rank * share, (processes.rank + 1) * share).clamp_(max=total - 1)
        self.network.eval()
        found = []
        for part in indices.split(TEST_BATCH):  # type: ignore[no-untyped-call]
            ready = device.put(pictures.batch(part.numpy()))
            ready = centre(ready, self.crop) if self.crop else ready
            with device.autocast(self.settings.precision):
                found.append(compute(to_network(ready)))
        self.network.train()
        return processes.gather(torch.cat(found))[:total].cpu()

    @property
    def _pad(self) -> int:
        return 0 if self.crop else self.settings.data.pad

    def _rate(self, step: int) -> float:
        settings = self.settings
        rate = multistep(step, settings.base_lr, settings.steps, settings.lr_gamma)
        return rate * min(1.0, step / settings.warmup) if settings.warmup else rate


def create_optimizer(network: nn.Module, settings: ClassifySettings) -> torch.optim.Optimizer:
    """SGD or Adam on the loss with weight decay in it, as TensorFlow's regularizers have it.

    All weights decay, but nothing that belongs to a convolution on angles (`spherenet.py`).
    """
    angles = {id(p) for layer in network.modules() if isinstance(layer, SphereConv2d) for p in layer.parameters()}
    free = [p for p in network.parameters() if id(p) in angles]
    decaying = [p for p in network.parameters() if id(p) not in angles]
    groups: list[dict[str, Any]] = [{"params": decaying}]
    groups += [{"params": free, "weight_decay": 0.0}] if free else []
    options: Any = {"lr": settings.base_lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, **options)
    return torch.optim.SGD(groups, momentum=settings.momentum, **options)
