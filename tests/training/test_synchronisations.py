"""How often a step of training reads a value or a size from the device, for which a GPU makes the program wait.

The operations are counted on a CPU. There are no more of them on a GPU: energies and sharded classes, which check
labels on a CPU, do not wait at all (test_gpu_steps). `python tests/training/test_synchronisations.py` prints the counts
of a step without and of one with a row of the history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sfplus.device import choose_device
from sfplus.hypersphere import HEADS, ShardedHead, energy
from sfplus.image_tasks.classification import ClassificationTask
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import Discriminator, Generator
from sfplus.image_tasks.generation import GanTask
from sfplus.networks import create
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import Task
from sfplus.training.face_task import FaceTask

WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique", "_unique2",
    "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class CountWaits(TorchDispatchMode):
    """Counts the operations whose value or size depends on values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in INDEXING else []
        if name in WAITING or (masks and not ("put" in name and args[2].numel() == 1)):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def count_waits() -> Iterator[Counter[str]]:
    """Count the waiting operations of forward and backward passes."""
    with torch.autograd.set_multithreading_enabled(False), CountWaits() as mode:
        yield mode.waits


class Crops:
    labels = torch.arange(6).repeat(2)
    digest, height, width = "none", 112, 96

    def __len__(self) -> int:
        return len(self.labels)


IMAGES = SmallImages(torch.zeros(6, 32, 32, 3, dtype=torch.uint8), torch.arange(6) % 3, ("a", "b", "c"))
Step = Callable[[bool], object]


def steps_of(task: Task, batch: tuple[Tensor, ...]) -> Step:
    task.modules.train()
    task.update(1, batch, measure=False)
    return lambda measure: task.update(2, batch, measure)


def face(sharded: bool = False, **changes: Any) -> Step:
    processes = ProcessGroup(choose_device("cpu"))
    settings = SolverSettings.model_validate({"batch_size": 4, **changes})
    options = settings.head.model_dump(exclude={"name"})
    kind = HEADS[settings.head.name]
    head: Any = ShardedHead(kind, 16, 6, averaged=True, **options) if sharded else kind(16, 6, **options)
    network = create("sphereface4", feature_size=16, width=0.125)
    task = FaceTask(network, head, Crops(), settings, processes)  # type: ignore[arg-type]
    return steps_of(task, (torch.randint(0, 256, (4, 112, 96, 3), dtype=torch.uint8), torch.randint(0, 6, (4,))))


def image(**changes: Any) -> Step:
    settings = ClassifySettings.model_validate({"batch_size": 4, **changes})
    processes = ProcessGroup(choose_device("cpu"))
    task = ClassificationTask(create_classifier("cnn9", 3, width=8), IMAGES, IMAGES, settings, processes, "")
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    return steps_of(task, (pixels, torch.randint(0, 3, (4,)), torch.zeros(4, 3, dtype=torch.int64)))


def gan(**changes: Any) -> Step:
    settings = GenerateSettings.model_validate({"batch_size": 4, "width": 0.125, **changes})
    networks = Generator(0.125, settings.noise_size), Discriminator(0.125, settings.spectral_norm)
    task = GanTask(*networks, IMAGES, settings, ProcessGroup(choose_device("cpu")), "")
    return steps_of(task, (torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8),))


# Steps by name, with the most waits of a step without a row of the history and with one.
STEPS: dict[str, tuple[Callable[[], Step], int, int]] = {
    "face": (face, 0, 1),
    "face, in 2 passes": (lambda: face(accumulate=2), 0, 1),
    "face, running average and clipping": (lambda: face(ema=0.9, clip=1.0), 0, 1),
    "face, energy": (lambda: face(energy={"mode": "paper", "weight": 1}), 2, 3),
    "face, energy of the batch": (lambda: face(energy={"mode": "batch", "weight": 1}), 2, 3),
    "face, sharded classes": (lambda: face(sharded=True), 2, 3),
    "face, sharded classes, energy": (lambda: face(sharded=True, energy={"mode": "paper", "weight": 1}), 5, 6),
    "image": (image, 0, 0),
    "image, energy": (lambda: image(energy={"mode": "mhe"}), 0, 0),
    "image, energy of random projections": (lambda: image(energy={"mode": "comhe-random", "count": 2}), 0, 0),
    "gan, energy": (lambda: gan(energy={"weight": 1e-6}), 0, 0),
}


def waits_of(make: Callable[[], Step]) -> list[Counter[str]]:
    counts = []
    with patch.object(energy, "_few_cosines", lambda *_: None):  # of CPUs only: it looks at the norms
        step = make()
        for measure in (False, True):
            with count_waits() as waits:
                step(measure)
            counts.append(waits)
    return counts


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_only_for_a_row_of_the_history(name: str) -> None:
    make, *most = STEPS[name]
    counts = waits_of(make)
    assert all(waits.total() <= limit for waits, limit in zip(counts, most, strict=True)), counts


def test_waits_are_counted() -> None:
    """Also those of a backward pass."""
    values = torch.tensor([1.0, 0.0], requires_grad=True)
    values.register_hook(lambda gradient: gradient * gradient.sum().item())
    with count_waits() as waits:
        values[values > 0].sum().backward()  # type: ignore[no-untyped-call]
        torch.unique(values.detach())
        values.detach().nonzero()
    assert waits == {"index": 1, "_local_scalar_dense": 1, "_unique2": 1, "nonzero": 1}


if __name__ == "__main__":
    for name, (make, *_) in STEPS.items():
        plain, measured = waits_of(make)
        print(f"{name:40}{plain.total():4}{measured.total():4}  {dict(plain)}")
