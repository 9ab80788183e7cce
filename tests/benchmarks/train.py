"""Time a training step of SphereFace-20, A-Softmax with m = 4, 10,572 people and 64 crops.

Our step is a complete `FaceTask.update` from uint8 crops: forward, loss, backward and SGD with Caffe's multipliers;
also with the class energy, in four passes and in bf16. It is compared with the design of clcarwin/sphereface_pytorch
(float NCHW images, eager mode, its head, trainable biases, torch's SGD) and with two lower bounds: the time of sgemm
for the 10.5 GFLOP per crop of forward and backward, and torch's convolutions alone, forward and backward, without the
rest of a step. The cost of a row of the history is measured too. Run on an idle machine: make bench
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from heads import UsualPort
from racing import race
from torch import Tensor, nn

from sfplus.device import choose_device
from sfplus.hypersphere import HEADS
from sfplus.io.memory import keep_freed_memory
from sfplus.networks import create
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.face_task import FaceTask

CROPS, PEOPLE, FEATURES, ROUNDS, SIDE = 64, 10_572, 512, 3, 2048
OURS: dict[str, dict[str, object]] = {
    "ours": {},
    "ours, in 4 passes": {"accumulate": 4},
    "ours, with class energy": {"energy": {"power": 2}},
    "ours, bf16": {"precision": "bf16"},
}


def restore_malloc() -> None:
    """Restore glibc's default treatment of freed memory."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20)):  # mmaps, mmap threshold, trim threshold
            mallopt(option, value)


class Crops:
    """The members of a dataset that a task uses."""

    labels = torch.arange(PEOPLE).repeat(2)
    digest = "none"
    height, width = 112, 96

    def __len__(self) -> int:
        return len(self.labels)


class PortNetwork(nn.Module):
    """sphere20a: all convolutions have a trainable bias and torch's initialisation."""

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
        restore_malloc()
        optimizer.zero_grad()
        head.loss(network(images), labels).backward()
        optimizer.step()

    return step


def convolutions(images: Tensor) -> Callable[[], None]:
    """Return a function that runs the convolutions of SphereFace-20 forward and backward, each on its own input."""
    network = create("sphereface20").to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, x, y: layers.append((conv, x[0], torch.randn_like(y))))
    with torch.no_grad():
        network(images)
    for conv, maps, _ in layers:
        conv._forward_hooks.clear()
        maps.requires_grad_(conv.in_channels > 3)  # no gradient of the crops

    def run() -> None:
        keep_freed_memory()
        for conv, maps, gradient in layers:
            wanted = [tensor for tensor in (maps, *conv.parameters()) if tensor.requires_grad]
            torch.autograd.grad(conv(maps), wanted, gradient)

    return run


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
    runs["sphereface_pytorch"] = port(
        normalize_crops(batch[0]).contiguous(memory_format=torch.contiguous_format), batch[1]
    )
    runs["convolutions alone"] = convolutions(normalize_crops(batch[0]))
    square = torch.randn(SIDE, SIDE, device=device.torch)
    runs["sgemm"] = lambda: square @ square
    seconds_by_run = race(runs, ROUNDS)
    rate = 2 * SIDE**3 / seconds_by_run.pop("sgemm")
    row, bound = seconds_by_run.pop("a row of the history"), CROPS * 10.5e9 / rate
    print(f"{device.describe()}; {CROPS} crops; sgemm {rate / 1e9:.0f} GFLOP/s; median of {ROUNDS} rounds")
    for name, seconds in seconds_by_run.items():
        speedup = seconds_by_run["sphereface_pytorch"] / seconds
        print(
            f"  {name:<26}{CROPS / seconds:8.2f} crops/s  {speedup:5.2f} x sphereface_pytorch"
            f"  {bound / seconds:5.2f} of the lower bound"
        )
    share = seconds_by_run["convolutions alone"] / seconds_by_run["sphereface_pytorch"]
    print(f"  the convolutions alone are {share:.2f} of its step: no step is faster than {1 / share:.2f} x")
    print(f"  a row of the history takes {row:.2f} s, {100 * row / seconds_by_run['ours']:.0f} % of a step")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
