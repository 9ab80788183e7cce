"""Time and memory of the hyperspherical energy, compared with its matrix products and with a dense implementation.

It also measures the share of the energy in a training step. Run it on an idle machine: make bench
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from racing import in_own_process, race
from torch import Tensor, nn

from sfplus.hypersphere import HypersphericalEnergy, RandomProjection, hyperspherical_energy, projection

CLASSES, FEATURES = 10572, 512
BLOCK = 1024


def create_directions(count: int) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(0)).requires_grad_()


def blockwise(count: int, power: float = 2.0) -> None:
    hyperspherical_energy(create_directions(count), power).backward()


def dense(count: int) -> None:
    dense_energy(create_directions(count)).backward()


def dense_energy(weight: Tensor) -> Tensor:
    """Return the energy from the matrix of all pairs, for autograd to differentiate."""
    unit, count = F.normalize(weight, dim=1), len(weight)
    squared = (2 - 2 * unit @ unit.T).clamp_min(1e-6)
    return (1 / squared).triu(1).sum().div(count * (count - 1) / 2)


def products(weight: Tensor) -> None:
    """Compute W W^T and (W W^T) W completely, in blocks that fit the cache."""
    result = torch.zeros_like(weight)
    for row in range(0, len(weight), BLOCK):
        for column in range(0, len(weight), BLOCK):
            block = weight[column : column + BLOCK]
            result[row : row + BLOCK].addmm_(weight[row : row + BLOCK] @ block.T, block)


def cnn9(classes: int = 100) -> nn.Module:
    """Create CNN-9 of the MHE paper for images of 32x32."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 128, 256):
        for _ in range(3):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Conv2d(256, 256, 4, bias=False), nn.Conv2d(256, classes, 1), nn.Flatten())


def energy_of_a_classifier() -> None:
    weight = create_directions(CLASSES)
    fixed = weight.detach()

    def step(**options: object) -> None:
        weight.grad = None
        hyperspherical_energy(weight, **options).backward()  # type: ignore[arg-type]

    seconds = race({
        "only the two matrix products, at once": lambda: (fixed @ fixed.T) @ fixed,
        "only the two matrix products, in blocks": lambda: products(fixed),
        "sfplus, s = 2": lambda: step(power=2.0),
        "sfplus, s = 0": lambda: step(power=0.0),
        "sfplus, s = 2, half-space": lambda: step(power=2.0, half_space=True),
        "sfplus, s = 2, geodesic": lambda: step(power=2.0, distance="geodesic"),
        "dense: all pairs, autograd": lambda: dense(CLASSES),
    }, rounds=3)  # fmt: skip
    floor = min(value for name, value in seconds.items() if "only" in name)
    print(
        f"energy of {CLASSES} directions in {FEATURES} dimensions, forward and backward, and x of the faster products"
    )
    for name, value in seconds.items():
        print(f"  {name:<44} {value:7.2f} s {value / floor:6.2f} x")
    baseline = in_own_process(blockwise, 256)[1]
    for name, run in (("sfplus", blockwise), ("dense", dense)):
        memory = in_own_process(run, CLASSES)[1] - baseline - CLASSES * FEATURES * 4 / 2**20
        print(f"  memory without the directions, {name:<14} {memory:7.0f} MB")


def scaling() -> None:
    baseline = in_own_process(blockwise, 256)[1]
    print(f"scaling, s = 2, {FEATURES} dimensions; memory without the directions, and relative to theirs")
    for count in (1_000, 3_000, 10_000, 30_000):
        seconds, peak = in_own_process(blockwise, count)
        size = count * FEATURES * 4 / 2**20
        memory = peak - baseline - size
        rate = count**2 / seconds / 1e6
        print(f"  {count:>8} directions {seconds:8.2f} s {rate:8.0f} M pairs/s {memory:7.0f} MB {memory / size:6.1f} x")


def least_work(model: nn.Module) -> dict[str, Callable[[], object]]:
    """Return the work that the energies of a model cannot do without, for each kind of energy.

    MHE and half-space MHE: W W^T of each layer and one product with W in backward. Random CoMHE: the random numbers,
    the products with them in forward and backward, and W W^T and one product of each projection.
    """
    energy = HypersphericalEnergy(model, half_space=True, projection=functools.cache(RandomProjection))
    layers = [layer.neurons()[0].detach().contiguous() for layer in energy.layers]
    wide = [w for w, p in zip(layers, energy.projections, strict=True) if isinstance(p, RandomProjection)]
    dtype = torch.bfloat16 if projection._MULTIPLIES_BFLOAT16 else torch.float32
    factors = [(w.to(dtype), torch.randn(800, w.shape[1], dtype=dtype)) for w in wide]
    projected = [torch.randn(20, len(w), 40) for w in wide]

    def mhe() -> None:
        for weight in layers:
            (weight @ weight.T) @ weight

    def comhe() -> None:
        energy.step(0.1)
        for weight, matrix in factors:
            (weight @ matrix.T) @ matrix
        for sets in projected:
            (sets @ sets.mT) @ sets

    return {"MHE": mhe, "half-space": mhe, "random CoMHE": comhe}


def share_of_a_step() -> None:
    print("share of a training step, batch 128 (only the energy with its gradient, relative to the step without it)")
    print("least: that of the products and random numbers alone")
    networks = {
        "ResNet-18, 112x112": (torchvision.models.resnet18(num_classes=100), 112),
        "CNN-9, 32x32": (cnn9(), 32),
    }
    for name, (model, size) in networks.items():
        images, labels = torch.randn(128, 3, size, size), torch.randint(100, (128,))
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
        energies = {
            "MHE": HypersphericalEnergy(model, power=2),
            "half-space": HypersphericalEnergy(model, power=2, half_space=True),
            "random CoMHE": HypersphericalEnergy(
                model, power=2, half_space=True, projection=functools.cache(RandomProjection)
            ),
        }

        def step(model: nn.Module = model, images: Tensor = images, labels: Tensor = labels) -> None:
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()

        def term(energy: HypersphericalEnergy) -> None:
            energy.step(0.1)
            energy().backward()

        least = {f"{key}, least": work for key, work in least_work(model).items()}
        seconds = race({
            "step": step, **{key: lambda energy=energy: term(energy) for key, energy in energies.items()}, **least
        }, rounds=3)  # fmt: skip
        for key in energies:
            share, floor = (100 * seconds[x] / seconds["step"] for x in (key, f"{key}, least"))
            print(f"  {name:<24} {key:<14} {share:6.1f} % of {seconds['step']:.2f} s, least {floor:6.1f} %")


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads")
    energy_of_a_classifier()
    share_of_a_step()
    scaling()
