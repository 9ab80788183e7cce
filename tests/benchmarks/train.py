"""A training step of SphereFace-20, A-Softmax with m = 4, 10,572 people, 64 crops: ours, the usual port's, sgemm.

Ours is a whole `FaceTask.update` from uint8 crops: forward, loss, backward and SGD with Caffe's multipliers; with the
class energy, in four passes and in bf16 too. The port is the way of clcarwin/sphereface_pytorch: float NCHW images,
eager, its head, trainable biases, torch's SGD. The floor is what sgemm needs for the 10.5 GFLOP a crop of forward and
backward. Last, what a row of the history costs beside a step. Run with nothing else on the machine: make bench
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from heads import UsualPort
from racing import race
from torch import Tensor, nn

from sfplus.device import choose_device, keep_freed_memory
from sfplus.hypersphere import HEADS
from sfplus.networks import create
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.face_task import FaceTask

CROPS, PEOPLE, FEATURES, ROUNDS, SIDE = 64, 10_572, 512, 5, 2048
OURS: dict[str, dict[str, object]] = {
    "ours": {},
    "ours, in 4 passes": {"accumulate": 4},
    "ours, with class energy": {"energy": {"power": 2}},
    "ours, bf16": {"precision": "bf16"},
}


def as_usual() -> None:
    """Let glibc treat freed memory as in a process in which nobody has asked for anything."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20)):  # mmaps, their threshold, that of trimming
            mallopt(option, value)


class Crops:
    """As much of a data set as a task looks at."""

    labels = torch.arange(PEOPLE).repeat(2)
    digest = "none"

    def __len__(self) -> int:
        return len(self.labels)


class PortNetwork(nn.Module):
    """sphere20a: every convolution with a trainable bias and torch's initialisation."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 3
        for channels, units in ((64, 1), (128, 2), (256, 4), (512, 1)):
            stages += [nn.Conv2d(before, channels, 3, 2, 1), nn.PReLU(channels)]
            stages += [PortUnit(channels) for _ in range(units)]
            before = channels
        self.stages, self.fc5 = nn.Sequential(*stages), nn.Linear(512 * 7 * 6, FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.stages(images)
        features: Tensor = self.fc5(maps.view(len(maps), -1))
        return features


class PortUnit(nn.Module):
    """A residual unit of sphere20a."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.PReLU(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = maps + self.layers(maps)
        return result


def port(images: Tensor, labels: Tensor) -> Callable[[], None]:
    network, head = PortNetwork().to(images.device), UsualPort().to(images.device)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        as_usual()
        optimizer.zero_grad()
        head.loss(network(images), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    device = choose_device("auto")
    crops = torch.randint(0, 256, (CROPS, 112, 96, 3), dtype=torch.uint8)
    labels = torch.randint(PEOPLE, (CROPS,))
    batch = (device.put(crops), device.put(labels))
    runs: dict[str, Callable[[], object]] = {}
    for name, options in OURS.items():
        settings = SolverSettings.model_validate({"batch_size": CROPS, "precision": "float32", **options})
        head = HEADS["asoftmax"](FEATURES, PEOPLE)
        task = FaceTask(create("sphereface20"), head, Crops(), settings, ProcessGroup(device))  # type: ignore[arg-type]
        task.modules.train()
        runs[name] = lambda task=task: (keep_freed_memory(), task.update(1, batch, measure=False))  # type: ignore[misc]
    runs["a row of the history"] = lambda: task.logged({"step": 1, "loss": 0.0, "accuracy": 0.0}, [])
    runs["the usual port"] = port(normalize_crops(batch[0]).contiguous(memory_format=torch.contiguous_format), batch[1])
    square = torch.randn(SIDE, SIDE, device=device.torch)
    runs["sgemm"] = lambda: square @ square
    found = race(runs, ROUNDS)
    rate = 2 * SIDE**3 / found.pop("sgemm")
    row, floor = found.pop("a row of the history"), CROPS * 10.5e9 / rate
    print(f"{device.describe()}; {CROPS} crops; sgemm {rate / 1e9:.0f} GFLOP/s; median of {ROUNDS} rounds")
    for name, seconds in found.items():
        print(
            f"  {name:<26}{CROPS / seconds:8.2f} crops/s  {found['the usual port'] / seconds:5.2f} x the port"
            f"  {floor / seconds:5.2f} of the floor"
        )
    print(f"  a row of the history takes {row:.2f} s, {100 * row / found['ours']:.0f} % of a step")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
