"""Compare the training of small networks with a plain PyTorch loop, and time each regularizer and the images alone.

Run on an idle machine: make bench, or this file with a width, for example 16.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from energy import least_work
from racing import race
from torch import nn

from sfplus.device import choose_device
from sfplus.image_tasks.classification import ClassificationTask
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.random_crop import random_crop
from sfplus.networks.normalize import normalize_images
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import train

BATCH, STEPS = 128, 5
REGULARIZERS = {
    "MHE": {"mode": "mhe"},
    "half-space": {"mode": "mhe", "half_space": True},
    "A-MHE": {"mode": "mhe", "power": "a2"},
    "random CoMHE": {"mode": "comhe-random", "half_space": True},
    "angle CoMHE": {"mode": "comhe-angle", "half_space": True},
    "adversarial CoMHE": {"mode": "comhe-adversarial", "half_space": True},
    "group CoMHE": {"mode": "comhe-group", "half_space": True},
    "orthonormal": {"mode": "orthonormal"},
}


def images() -> SmallImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return SmallImages(images, torch.randint(100, (50_000,), generator=generator), tuple(map(str, range(100))))


def settings(width: int, precision: str, **energy: Any) -> ClassifySettings:
    given = {"width": width, "precision": precision, "energy": energy, "max_iter": STEPS, "log_every": STEPS,
             "test_every": STEPS, "checkpoint_every": 10**6, "base_lr": 1e-3}  # fmt: skip
    return ClassifySettings.model_validate(given)


def plain(data: SmallImages, width: int, precision: str) -> Callable[[], None]:
    """A plain loop on prepared images, without augmentation, history and checkpoints."""
    network = create_classifier("cnn9", 100, width=width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, 0.9, weight_decay=5e-4)
    inputs = normalize_images(data.images[: BATCH * STEPS]).split(BATCH)
    labels = data.labels[: BATCH * STEPS].split(BATCH)

    def run() -> None:
        network.train()
        for x, y in zip(inputs, labels, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


class _Untested(ClassificationTask):
    """The task without evaluation."""

    def predict(self, images: Any) -> torch.Tensor:
        return images.labels  # type: ignore[no-any-return]


def ours(data: SmallImages, given: ClassifySettings) -> Callable[[], None]:
    processes = ProcessGroup(choose_device("cpu"))

    def run() -> None:
        network = create_classifier("cnn9", 100, width=given.width)
        task = _Untested(network, data, data.select(torch.arange(10)), given, processes, "")
        with tempfile.TemporaryDirectory() as folder:
            train(task, given, Path(folder), processes)

    return run


def throughput(data: SmallImages, width: int) -> None:
    for precision in ("float32", "bf16"):
        runs = {"plain loop": plain(data, width, precision), "sfplus": ours(data, settings(width, precision))}
        seconds = race(runs, rounds=2)
        rates = {name: BATCH * STEPS / value for name, value in seconds.items()}
        print(f"  {precision:<8} plain loop {rates['plain loop']:7.0f} images/s   sfplus {rates['sfplus']:7.0f} "
              f"({rates['sfplus'] / rates['plain loop']:.3f} x)")  # fmt: skip


def prices(data: SmallImages, width: int) -> None:
    """Print the time of a step with each regularizer relative to a step without, and the least that it can be."""
    network = create_classifier("cnn9", 100, width=width)
    processes = ProcessGroup(choose_device("cpu"))
    processes.device.move(network).train()
    tasks = {name: ClassificationTask(network, data, data, settings(width, "float32", **energy), processes, "")
             for name, energy in {"baseline": {}, **REGULARIZERS}.items()}  # fmt: skip
    batch = tasks["baseline"].batch(1, slice(0, BATCH))
    least = race(least_work(network), rounds=5)
    seconds = race({name: lambda task=task: task.update(1, batch, False) for name, task in tasks.items()}, rounds=2)  # type: ignore[misc]
    base = seconds["baseline"]
    for name, value in seconds.items():
        floor = f"   products and random numbers alone {1 + least[name] / base:6.3f} x" if name in least else ""
        print(f"  {name:<20} {1e3 * value:7.1f} ms {value / base:6.3f} x{floor}")


def images_alone(data: SmallImages) -> None:
    task = ClassificationTask(
        nn.Linear(1, 1), data, data, settings(64, "float32"), ProcessGroup(choose_device("cpu")), ""
    )

    def run() -> None:
        for step in range(1, 51):
            images, _, crops = task.batch(step, slice(0, BATCH))
            normalize_images(random_crop(images, crops))

    rate = 50 * BATCH / race({"": run}, rounds=3)[""]
    print(f"  drawn, cropped, mirrored, normalised: {rate:,.0f} images/s")


if __name__ == "__main__":
    width, data = int(sys.argv[1]) if len(sys.argv) > 1 else 64, images()
    print(f"CNN-9 of {width}, {2 * width} and {4 * width} filters, batch {BATCH}, {torch.get_num_threads()} threads")
    images_alone(data)
    throughput(data, width)
    print("time of a step relative to one without regularizer")
    prices(data, width)
