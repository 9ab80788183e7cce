"""Every public operation runs on CUDA tensors, forward and backward, and never makes the program wait for the GPU.

Without a GPU the tensors are fake (`fake_cuda`); on a machine with one the same table runs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from fake_cuda import SYNCHRONISATIONS, fake_cuda
from slow_cases import mostly_slow
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import sfplus.hypersphere
from sfplus.hypersphere import (
    HEADS,
    AdaFace,
    AdversarialProjection,
    AngleProjection,
    GroupProjection,
    HypersphericalEnergy,
    Orthonormality,
    RandomProjection,
    ShardedHead,
    SphereConv2d,
    SphereFace2,
    WeightNormLinear,
    class_energy,
    cosine_distillation,
    hyperspherical_energy,
    margin_cosine,
    measure_layer_uniformity,
    measure_uniformity,
    orthonormal_penalty,
    orthonormal_regularizer,
    relational_distillation,
    to_sphere,
)

Step = Callable[[], Any]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", requires_grad=True)


def labels(count: int = 6, classes: int = 5) -> Tensor:
    return torch.randint(classes, (count,), device="cuda")


def head(name: str, **options: Any) -> Step:
    module, x, y = HEADS[name](8, 5, **options).to("cuda"), randn(6, 8), labels()
    return lambda: (module(x, y) + module.logits(x, y).sum(), module.predict(x.detach()))[0]


def sharded(name: str, mode: str = "paper", count: int = 6, **options: Any) -> Step:
    with torch.device("cuda"):
        module, x, y = ShardedHead(HEADS[name], 8, 40, **options), randn(count, 8), labels(count, 40)
    return lambda: (module(x, y) + module.class_energy(y, mode=mode), module.classify(x))[0]  # type: ignore[arg-type]


def network() -> nn.Module:
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(64, 16), nn.MultiheadAttention(16, 2)
    return nn.Sequential(*layers, nn.Linear(16, 5)).to("cuda")


def energy(**options: Any) -> Step:
    model = network()
    module = HypersphericalEnergy(model, **options).to("cuda")

    def step() -> Tensor:
        module.step(0.1)
        total: Tensor = module()
        return total

    return step


def sphere(**options: Any) -> Step:
    model = nn.Sequential(to_sphere(nn.Conv2d(4, 6, 3), **options), nn.Flatten(), WeightNormLinear(24, 3)).to("cuda")
    x = randn(2, 4, 4, 4)
    return lambda: model(x).sum() + orthonormal_regularizer(model)


def call(function: Callable[..., Tensor], *shapes: tuple[int, ...], **options: Any) -> Step:
    tensors = [randn(*shape) for shape in shapes]
    return lambda: function(*tensors, **options)


def of_classes(mode: Any, count: int) -> Step:
    weight, y = randn(9, 4), labels(count, 9)
    return lambda: class_energy(weight, y, mode=mode)


OPERATIONS: dict[str, Callable[[], Step]] = {
    **{f"head {name}": partial(head, name) for name in HEADS},
    "head asoftmax, caffe": partial(head, "asoftmax", gradient="caffe"),
    "head normface, learned scale": partial(head, "normface", learnable=True),
    "head sphereface-r, steps": partial(head, "sphereface-r", version="v2", steps=(1, 3), normalisation="soft"),
    **{f"ShardedHead {name}": partial(sharded, name) for name in HEADS},
    "ShardedHead, batch": partial(sharded, "cosface", mode="batch", count=50),
    "ShardedHead, sampled": partial(sharded, "asoftmax", sample_rate=0.9),
    **{f"class_energy {mode} {count}": partial(of_classes, mode, count)
       for mode in ("paper", "batch", "caffe") for count in (4, 20)},
    "hyperspherical_energy": partial(call, hyperspherical_energy, (7, 4), half_space=True),
    "hyperspherical_energy, sets": partial(call, hyperspherical_energy, (3, 7, 4), power=1.0, distance="geodesic"),
    "HypersphericalEnergy": partial(energy, power=0, half_space=True),
    "HypersphericalEnergy, tf1": partial(energy, preset="tf1"),
    **{f"HypersphericalEnergy {kind.__name__}": partial(energy, projection=partial(kind, dim=4))
       for kind in (RandomProjection, AngleProjection, AdversarialProjection)},
    "HypersphericalEnergy GroupProjection": partial(energy, projection=partial(GroupProjection, groups=4)),
    "Orthonormality": lambda: Orthonormality(network(), 0.1),
    "orthonormal_penalty": partial(call, orthonormal_penalty, (6, 3, 3), groups=2),
    **{f"SphereConv2d {operator}": partial(sphere, operator=operator, rescale=operator == "linear")
       for operator in ("linear", "cosine", "sigmoid", "learnable-sigmoid")},
    "cosine_distillation": partial(call, cosine_distillation, (6, 4), (6, 4)),
    "relational_distillation": partial(call, relational_distillation, (6, 4), (6, 5)),
    "margin_cosine": partial(call, lambda x: margin_cosine(x.tanh(), 4), (6,)),
}  # fmt: skip
FAST = [
    "head asoftmax", "head sphereface2", "ShardedHead asoftmax", "ShardedHead, sampled", "class_energy paper 4",
    "hyperspherical_energy", "HypersphericalEnergy RandomProjection", "Orthonormality", "SphereConv2d cosine",
    "relational_distillation", "margin_cosine",
]  # fmt: skip
SHARDED = mostly_slow(
    (name for name in OPERATIONS if name.startswith("ShardedHead")), ["ShardedHead cosface", "ShardedHead, sampled"]
)
NOT_ON_A_GPU = {
    "HEADS", "Head", "Projection", "Uniformity", "Spread",  # a table, base classes, a result
    "random_energy", "least_energy",  # of numbers, not of tensors
    "measure_uniformity", "measure_layer_uniformity", "spread", "spread_of_layers",  # return numbers: they wait
}  # fmt: skip


def test_every_public_operation_is_in_the_table() -> None:
    names = " ".join(OPERATIONS) + " orthonormal_regularizer to_sphere WeightNormLinear"
    titles = {kind.__name__: f"head {name}" for name, kind in HEADS.items()}
    for name in set(sfplus.hypersphere.__all__) - NOT_ON_A_GPU:
        assert titles.get(name, name) in names, name


@pytest.fixture
def without_values() -> Iterator[None]:
    """Replace what fake tensors cannot do: random generators of a GPU, and a bias that is computed by tensors."""
    with (
        patch("torch.Generator", lambda device: _Generator()),
        patch.object(SphereFace2, "_initial_bias", lambda _: 0.0),
    ):
        yield


class _Generator:
    def manual_seed(self, seed: int) -> None:
        """Return no generator: fake tensors have no values."""


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", mostly_slow(OPERATIONS, FAST))
def test_runs_on_fake_cuda_tensors_without_waiting(name: str) -> None:
    with fake_cuda() as gpu:
        with gpu.copies():
            step = OPERATIONS[name]()
        for _ in range(2):
            result = step()
            assert result.is_cuda
            result.sum().backward()


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """A process group of which this process is the first rank, and that communicates nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("without_values", "two_ranks")
@pytest.mark.parametrize("name", SHARDED)
def test_class_parallel_heads_do_not_wait_on_two_ranks(name: str) -> None:
    with fake_cuda() as gpu:
        with gpu.copies():
            step = OPERATIONS[name]()
        step().backward()


@pytest.mark.usefixtures("two_ranks")
def test_statistics_of_all_ranks_do_not_wait() -> None:
    with fake_cuda() as gpu:
        with gpu.copies():
            module = AdaFace(8, 5).to("cuda")
        module.synchronised = True
        module(randn(6, 8), labels()).backward()


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATIONS)
def test_runs_on_a_gpu_without_waiting(name: str) -> None:
    step = OPERATIONS[name]()
    step().sum().backward()  # the first call loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = step()
        result.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.isfinite().all()


@pytest.mark.usefixtures("without_values")
def test_waits_only_where_it_is_documented() -> None:
    with fake_cuda() as gpu:
        with gpu.copies():
            head, step = HEADS["asoftmax"](8, 5).to("cuda"), sharded("cosface", sample_rate=0.1, count=50)
        for function in (lambda: head.current_lambda, step, lambda: measure_uniformity(randn(6, 4))):
            with pytest.raises(SYNCHRONISATIONS):
                function()
        with pytest.raises(SYNCHRONISATIONS):
            measure_layer_uniformity(head)


def test_a_wrong_device_is_found() -> None:
    with fake_cuda() as gpu:
        with gpu.copies():
            on_cpu, layer = HEADS["arcface"](8, 5), SphereConv2d(3, 4, 3)
        for function in (lambda: on_cpu(randn(6, 8), labels()), lambda: layer(randn(1, 3, 4, 4))):
            with pytest.raises(RuntimeError, match=r"[Dd]evice"):
                function()
