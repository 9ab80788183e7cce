"""Steps of each kind of training on a GPU: nothing is on the wrong device, and no step waits for the GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cuda import SYNCHRONISATIONS, FakeGPU, FakeTensorDeviceMismatchError, WaitsForGPU, fake_cuda
from slow_cases import mostly_slow
from torch import Tensor, nn

from sfplus.device import Device
from sfplus.hypersphere import HEADS, ShardedHead
from sfplus.image_tasks.classification import ClassificationTask
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import Discriminator, Generator
from sfplus.image_tasks.generation import GanTask
from sfplus.networks import create
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training import face_task
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import Task
from sfplus.training.face_task import FaceTask
from sfplus.training.train_state import collect_state

CUDA = Device(torch.device("cuda"))
BATCH = 4


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGPU]:
    """A fake GPU on which autocast is not disabled, and whose copies from pinned memory do not wait."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(Device, "pin", lambda self, tensor: tensor)
    monkeypatch.setattr(face_task, "check_people", lambda *_, **__: None)  # these read labels, which are not fake
    monkeypatch.setattr(face_task, "create_sampler", lambda *_: None)
    monkeypatch.setattr(Crops, "labels", SimpleNamespace(numpy=lambda: None))
    monkeypatch.setattr(torch, "_fused_sgd_", fused_sgd)
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # reads bounds
    with fake_cuda() as gpu:
        yield gpu


def fused_sgd(parameters: list[Tensor], gradients: list[Tensor], *_: object, **options: Any) -> None:
    """Stand for torch's kernel, which has no fake one."""
    tensors = [
        *parameters,
        *gradients,
        *(options[name] for name in ("grad_scale", "found_inf") if options[name] is not None),
    ]
    assert gradients and all(tensor.is_cuda for tensor in tensors)


class Crops:
    """The members of a set of crops that a task uses."""

    digest, height, width, people = "none", 112, 96, ()
    labels = torch.arange(12) % 6

    def __len__(self) -> int:
        return 12


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")


def face_step(sharded: bool = False, **changes: Any) -> tuple[Task, tuple[Tensor, ...]]:
    settings = SolverSettings.model_validate({"batch_size": BATCH, "precision": "float32", **changes})
    network = create("sphereface4", feature_size=16, width=0.125)
    kind, options = HEADS[settings.head.name], settings.head.model_dump(exclude={"name"})
    head = ShardedHead(kind, 16, 6, averaged=True, **options) if sharded else kind(16, 6, **options)
    task = FaceTask(network, head, Crops(), settings, ProcessGroup(CUDA))  # type: ignore[arg-type]
    extra = [torch.randn(BATCH, 7, device="cuda")] if settings.augment else []
    return task, (pixels(BATCH, 112, 96, 3), torch.randint(0, 6, (BATCH,), device="cuda"), *extra)


def image_step(**changes: Any) -> tuple[Task, tuple[Tensor, ...]]:
    settings = ClassifySettings.model_validate({"batch_size": BATCH, "precision": "float32", **changes})
    options: dict[str, Any] = {"operator": settings.operator}
    network = create_classifier("spherenet9" if settings.operator != "none" else "cnn9", 3, width=8, **options)
    images = SmallImages(torch.zeros(6, 32, 32, 3, dtype=torch.uint8), torch.arange(6) % 3, ("a", "b", "c"))
    task = ClassificationTask(CUDA.move(network), images, images, settings, ProcessGroup(CUDA), "")
    crops = torch.zeros(BATCH, 3, dtype=torch.int64, device="cuda")
    return task, (pixels(BATCH, 32, 32, 3), torch.randint(0, 3, (BATCH,), device="cuda"), crops)


def gan_step(**changes: Any) -> tuple[Task, tuple[Tensor, ...]]:
    settings = GenerateSettings.model_validate({"batch_size": BATCH, "width": 0.125, "n_dis": 2, **changes})
    networks: Any = map(
        CUDA.move, (Generator(0.125, settings.noise_size), Discriminator(0.125, settings.spectral_norm))
    )
    images = SmallImages(torch.zeros(6, 32, 32, 3, dtype=torch.uint8), torch.arange(6) % 3, ("a", "b", "c"))
    return GanTask(*networks, images, settings, ProcessGroup(CUDA), ""), (pixels(2, BATCH, 32, 32, 3),)


Make = Callable[..., tuple[Task, tuple[Tensor, ...]]]
STEPS: dict[str, tuple[Make, dict[str, Any]]] = {
    "face": (face_step, {}),
    "face, bf16": (face_step, {"precision": "bf16"}),
    "face, fp16": (face_step, {"precision": "fp16"}),
    "face, passes": (face_step, {"accumulate": 2}),
    "face, fp16 and clip": (face_step, {"precision": "fp16", "clip": 1.0}),
    "face, augment": (face_step, {"augment": 1.0}),
    "face, clip": (face_step, {"clip": 1.0}),
    "face, energy": (face_step, {"energy": {"mode": "paper", "weight": 1}}),
    "face, energy of the batch": (face_step, {"energy": {"mode": "batch", "weight": 1}}),
    "face, sharded classes": (face_step, {"sharded": True}),
    "face, sharded classes, energy": (face_step, {"sharded": True, "energy": {"mode": "paper", "weight": 1}}),
    "image": (image_step, {}),
    "image, bf16": (image_step, {"precision": "bf16"}),
    "image, energy": (image_step, {"energy": {"mode": "mhe"}}),
    "image, half-space energy of angles": (image_step, {"energy": {"mode": "mhe", "power": "a1", "half_space": True}}),
    "image, orthonormal": (image_step, {"energy": {"mode": "orthonormal"}}),
    "image, convolutions on angles": (image_step, {"operator": "cosine", "optimizer": "adam"}),
    "gan, bf16": (gan_step, {"precision": "bf16"}),
    "gan, energy and spectral norm": (gan_step, {"energy": {"weight": 1e-6}, "spectral_norm": True}),
}
FAST = [
    "face, augment", "face, fp16 and clip", "face, energy", "face, sharded classes",
]  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(STEPS, FAST))
def test_a_step_on_a_gpu_does_not_wait(name: str, gpu: FakeGPU) -> None:
    make, changes = STEPS[name]
    with gpu.copies():
        task, batch = make(**changes)
        task.modules.train()
    task.update(1, batch, measure=False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_a_step_on_a_real_gpu_does_not_wait(name: str) -> None:
    make, changes = STEPS[name]
    task, batch = make(**changes)
    CUDA.move(task.modules).train()
    task.update(1, batch, measure=False)  # libraries are initialised
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.update(2, batch, measure=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    row = task.update(3, batch, measure=True)
    assert row is not None and all(bool(v.isfinite()) for v in row.values() if isinstance(v, Tensor))


def test_a_checkpoint_waits_once(gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parameters, buffers and velocities are copied before the program waits."""
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    with gpu.copies():
        task, _ = face_step()
        for parameter in task.modules.parameters():
            task.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)  # type: ignore[attr-defined]
    state = collect_state(task.modules, task.optimizers)
    assert state is not None and len(waits) == 1
    assert len(state.optimizers) == len(list(task.modules.parameters()))
    assert not any(tensor.is_cuda for tensor in [*state.modules.values(), *state.optimizers.values()])


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda images: images.cpu(), WaitsForGPU),
        (lambda images: images * int(images.amax()), SYNCHRONISATIONS),
        (lambda images: images[images.amax((1, 2, 3)) > 0], SYNCHRONISATIONS),
        (lambda images: images + torch.zeros(images.shape), FakeTensorDeviceMismatchError),
    ],
    ids=["a copy", "a value", "a size", "another device"],
)
def test_a_step_that_waits_or_is_on_the_wrong_device_is_found(
    spoil: Callable[[Tensor], Tensor], error: Any, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu.copies():
        task, batch = face_step()
        task.modules.train()
    monkeypatch.setattr(face_task, "normalize_crops", lambda crops: spoil(normalize_crops(crops)))
    with pytest.raises(error):
        task.update(1, batch, measure=False)
