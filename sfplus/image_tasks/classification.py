"""Image classification as a task of the training engine: MHE, CoMHE, SphereNet and their baselines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.arithmetic import exact_arithmetic
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
from sfplus.image_tasks.datasets import ImageDataset
from sfplus.image_tasks.random_crop import centre_crop, draw_crops, random_crop
from sfplus.networks.normalize import normalize_images
from sfplus.recipes.settings.classify import ClassifySettings, RegularizerSettings, released_factors
from sfplus.recipes.settings.own_code import OwnEnergySettings
from sfplus.training.batch_norm import synchronise_batch_norm
from sfplus.training.distributed import ProcessGroup, has_unused_parameters
from sfplus.training.engine import Row, Task
from sfplus.training.optimizer import create_optimizer, decay_groups, set_learning_rate
from sfplus.training.own_energy import OwnEnergy
from sfplus.training.sampling import draw_indices
from sfplus.training.schedule import multistep

TEST_BATCH = 500
Regularizer = HypersphericalEnergy | Orthonormality | OwnEnergy


def create_regularizer(network: nn.Module, settings: RegularizerSettings | OwnEnergySettings) -> Regularizer | None:
    """Create the regularizer of the settings, by default with the weights of the released code.

    Returns:
        A module whose call is added to the loss; None for the mode `none`.
    """
    if isinstance(settings, OwnEnergySettings):
        return OwnEnergy(settings, network)
    if settings.mode == "none":
        return None
    factors = released_factors(settings.mode, settings.power)
    hidden = factors["hidden"] if settings.hidden is None else settings.hidden
    if settings.mode in ("orthonormal", "orthogonal"):
        return Orthonormality(network, hidden, settings.mode == "orthogonal")
    return HypersphericalEnergy(
        network,
        int(str(settings.power)[-1]),
        "geodesic" if isinstance(settings.power, str) else "euclidean",
        settings.half_space,
        hidden,
        factors["output"] if settings.output is None else settings.output,
        projection=_projection(settings),
        preset=settings.preset,
    )


def _projection(settings: RegularizerSettings) -> Callable[[int], Projection] | None:
    options: Any = {"dim": settings.dim, "iterations": settings.iterations}
    options = {name: value for name, value in options.items() if value is not None}
    if settings.mode == "comhe-random":
        # One random matrix for all layers of a size: in the original their operations have the same seed.
        return functools.cache(lambda size: RandomProjection(size, settings.dim or 40, settings.count))
    if settings.mode == "comhe-angle":
        return functools.partial(AngleProjection, **options)
    if settings.mode == "comhe-adversarial":
        return functools.partial(AdversarialProjection, **options)
    if settings.mode == "comhe-group":
        # Filters with few weights, those of the first layer, are not divided, as in the released variants.
        return lambda size: GroupProjection(size, settings.groups if size >= 9 * settings.groups else 1)
    return None


def smoothed_entropy(logits: Tensor, labels: Tensor, smoothing: float, offset: float) -> Tensor:
    """Return -sum_k y_k log(p_k + offset), averaged over a batch.

    It is the loss of the MHE, CoMHE and SphereNet code (loss.py, `loss2`). y is 1 - smoothing at the label, plus
    smoothing over the number of classes everywhere. The offset bounds the loss at -log(offset) and removes the gradient
    of samples whose label has a probability near 0.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
        smoothing: share of a label that is distributed over all classes.
        offset: added to each probability; 0 for the usual cross-entropy.
    """
    logits = logits.float()
    if not offset:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    logs = torch.log(logits.softmax(1) + offset)
    at_label = logs.gather(1, labels[:, None]).squeeze(1)
    return -((1 - smoothing) * at_label + smoothing * logs.mean(1)).mean()


class ClassificationTask(Task):
    """Network, loss and regularizer; see `Task`.

    With several processes batch normalisation covers all of them on GPUs, and the share of each on CPUs.

    Args:
        network: (N, C, H, W) -> logits (N, classes).
        train: the training set.
        test: the test set, for an evaluation every `test_every` steps.
        settings: settings of the run.
        processes: processes of the run.
        digest: digest of everything that decides the result.
    """

    unit = "images"
    averaged = ("loss", "train_accuracy")

    def __init__(
        self,
        network: nn.Module,
        train: ImageDataset,
        test: ImageDataset,
        settings: ClassifySettings,
        processes: ProcessGroup,
        digest: str,
    ) -> None:
        self.settings, self.processes, self.digest = settings, processes, digest
        self.train, self.test = train, test
        network = synchronise_batch_norm(network, processes, settings.batch_size, unit=self.unit)
        self.network, self.energy = network, create_regularizer(network, settings.energy)
        self.modules = nn.ModuleDict({"network": network})
        if self.energy is not None:
            self.modules["energy"] = self.energy
        self.angular = any(isinstance(layer, SphereConv2d) for layer in network.modules()) and settings.orthonormal > 0
        self.optimizer = create_optimizer(
            settings.optimizer,
            decay_groups(network),
            lr=settings.base_lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        )
        self.optimizers = {"network": self.optimizer}
        self.crop = settings.data.crop if settings.data.name == "files" else 0
        self.precision = processes.device.precision(settings.precision, fp16=False)  # there is no gradient scaler
        self.model = self._prepare()

    def _prepare(self) -> nn.Module:
        """Return the network that averages gradients over the processes in training."""
        unused = False
        if self.processes.count > 1:
            _, height, width, channels = self.train.batch(np.arange(1)).shape
            size = (channels, self.crop or height, self.crop or width)
            unused = has_unused_parameters(self.processes.device.move(self.network), size)
        return self.processes.prepare(self.network, unused=unused)

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Return images (B, H, W, C) uint8, labels (B,) and the random crops of the images (B, 3)."""
        settings, data = self.settings, self.settings.data
        indices = draw_indices(step, len(self.train.labels), settings.batch_size, settings.seed)[share]
        images, labels = self.train.batch(indices), self.train.labels[torch.from_numpy(indices)]
        height, width = images.shape[1:3]
        crops = draw_crops(settings.seed, step, settings.batch_size, (height, width), self._pad, self.crop, data.mirror)
        return images, labels, crops[share]

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """Perform one step of SGD or Adam; at evaluations compute the test accuracy too."""
        images, labels, crops = batch
        settings, rate = self.settings, self._rate(step)
        set_learning_rate(self.optimizer, rate)
        with self.processes.device.autocast(self.precision):
            logits = self.model(normalize_images(random_crop(images, crops, self._pad, self.crop)))
        entropy = smoothed_entropy(logits, labels, settings.label_smoothing, settings.offset)
        loss = entropy
        if self.energy is not None:
            self.energy.step(rate)
            loss = loss + self.energy()
        if self.angular:
            orthonormal = orthonormal_regularizer(self.network)
            loss = loss + settings.orthonormal * orthonormal
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        torch.clear_autocast_cache()  # else the evaluation would compute with the old weights
        if not measure:
            return None
        row: Row = {"loss": entropy, "train_accuracy": (logits.argmax(1) == labels).float().mean(), "rate": rate}
        if self.angular:
            row["orthonormality"] = orthonormal
        if self.energy is not None:
            row |= {f"energy.{name}": value for name, value in self.energy.values.items()}
        if step % settings.test_every == 0 or step == settings.max_iter:
            row["accuracy"] = (self.predict(self.test) == self.test.labels).double().mean().item()
        return row

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        """Add the best accuracy so far, which is the figure that the papers report."""
        if "accuracy" in row:
            previous = [earlier_row["best_accuracy"] for earlier_row in earlier if "best_accuracy" in earlier_row]
            row["best_accuracy"] = max([row["accuracy"], *previous])

    def describe(self, step: int) -> str:
        """Describe the learning rate."""
        return f"learning rate {self._rate(step):.4g}"

    def predict(self, images: ImageDataset) -> Tensor:
        """Return the predicted class of each image (N,) on the host; each process computes a part."""
        return self._evaluate(images, lambda x: self.network(x).argmax(1))

    def features(self, images: ImageDataset) -> Tensor:
        """Return the feature of each image (N, F) on the host."""
        return self._evaluate(images, lambda x: self.network.features(x).float())  # type: ignore[operator]

    @torch.no_grad()
    def _evaluate(self, images: ImageDataset, compute: Callable[[Tensor], Tensor]) -> Tensor:
        device, processes = self.processes.device, self.processes
        processes.broadcast(self.network.buffers())  # one set of moving averages of batch normalisation
        total = len(images.labels)
        share = -(-total // processes.count)
        indices = torch.arange(processes.rank * share, (processes.rank + 1) * share).clamp_(max=total - 1)
        self.network.eval()
        outputs = []
        for part in indices.split(TEST_BATCH):  # type: ignore[no-untyped-call]
            batch = device.put(images.batch(part.numpy()))
            batch = centre_crop(batch, self.crop) if self.crop else batch
            with exact_arithmetic(device.torch.type), device.autocast(self.precision):
                outputs.append(compute(normalize_images(batch)))
        self.network.train()
        return processes.gather(torch.cat(outputs))[:total].cpu()

    @property
    def _pad(self) -> int:
        return 0 if self.crop else self.settings.data.pad

    def _rate(self, step: int) -> float:
        settings = self.settings
        return multistep(step, settings.base_lr, settings.steps, settings.lr_gamma, settings.warmup)
