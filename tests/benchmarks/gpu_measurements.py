"""Measurements of `gpu.py`: each function times one kind of work on a device, next to the obvious way to do it.

Started by `gpu.py` in a process of its own, so that a failure or an exhausted memory costs one kind of work only.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from classify import _Untested, images
from energy import dense_energy
from facenet_pytorch import MTCNN
from gan import plain_step, step
from racing import race
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from train import Crops, port

from sfplus.alignment import fit_similarity, warp, warp_batch
from sfplus.arithmetic import exact_settings
from sfplus.datasets.portraits import draw_portrait
from sfplus.detection import Detector
from sfplus.device import Device, choose_device
from sfplus.embedder import Embedder
from sfplus.hypersphere import HEADS, ASoftmax, ShardedHead, hyperspherical_energy
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.gan import Discriminator, Generator
from sfplus.image_tasks.generation import GanTask
from sfplus.networks import create
from sfplus.networks.embed import embed_crops
from sfplus.networks.normalize import normalize_crops, normalize_images
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.face_task import FaceTask

FEATURES, PEOPLE = 512, 10_572


@dataclass
class Figure:
    """A measured time.

    Attributes:
        work: What was done.
        count: How many of `unit` were processed.
        unit: Photos, crops, pairs, bytes or operations.
        seconds: Median over the rounds.
        peer: The other way of doing the same, measured in the same rounds, or "".
        ratio: Seconds of the peer over `seconds`; None without a peer.
        operations: The multiplications and additions that the work needs at least; None where they are not counted.
        rate: The matrix product of the same arithmetic: float32, TF32 or bf16.
        peak_mb: Peak of the GPU memory, MB; None on a CPU.
    """

    work: str
    count: float
    unit: str
    seconds: float
    peer: str = ""
    ratio: float | None = None
    operations: float | None = None
    rate: str = "float32"
    peak_mb: float | None = None


class Measurement:
    """Times runs against each other on a device.

    Args:
        device: The device.
        quick: Measure small sizes, to try the suite on a machine without a GPU.
    """

    def __init__(self, device: Device, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.rounds = 1 if quick else 5

    def size(self, full: int, small: int) -> int:
        """Return a size: the full one, or a small one to try the suite."""
        return small if self.quick else full

    def compare(self, runs: dict[str, Callable[[], object]], peer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield for each run but the peer its name and the fields of a `Figure` that were measured."""
        peaks = {name: self._peak(run) for name, run in runs.items()}  # also the warm-up
        seconds = race(runs, self.rounds)
        for name, value in seconds.items():
            if name != peer:
                ratio = seconds[peer] / value if peer else None
                yield name, {"seconds": value, "peer": peer, "ratio": ratio, "peak_mb": peaks[name]}

    def _peak(self, run: Callable[[], object]) -> float | None:
        if not self.device.is_cuda:
            run()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20


def rates(m: Measurement) -> Iterator[Figure]:
    """Measure matrix products and copies, which bound the other figures."""
    device, side = m.device.torch, m.size(8192, 256)
    a, b = torch.randn(2, side, side, device=device).unbind()
    runs: dict[str, Callable[[], object]] = {"float32": lambda: a @ b}
    if m.device.is_cuda:
        runs["TF32"] = lambda: _product_in_tf32(a, b)
    left, right = a.bfloat16(), b.bfloat16()
    runs["bf16"] = lambda: left @ right
    for name, measured in m.compare(runs):
        yield Figure(f"matrix product, {name}", 2 * side**3, "operations", **measured)
    source = torch.empty(m.size(1 << 30, 1 << 22), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    host = torch.empty(m.size(1 << 28, 1 << 20), dtype=torch.uint8, pin_memory=m.device.is_cuda)
    part = source[: len(host)]
    copies: dict[str, Callable[[], object]] = {
        "in its memory (read and written)": lambda: target.copy_(source),
        "from the host": lambda: part.copy_(host, non_blocking=True),
        "to the host": lambda: host.copy_(part, non_blocking=True),
    }
    for name, measured in m.compare(copies):
        moved = 2 * len(source) if "its" in name else len(host)
        yield Figure(f"copy {name}", moved, "bytes", **measured)


def _product_in_tf32(a: Tensor, b: Tensor) -> Tensor:
    with _tf32():
        return a @ b


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Compute matrix products and convolutions with TF32."""
    operations = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    for operation in operations:
        operation.fp32_precision = "tf32"
    try:
        yield
    finally:
        for operation in operations:
            operation.fp32_precision = "ieee"


def detection(m: Measurement) -> Iterator[Figure]:
    """Detect faces in photos of three sizes, next to facenet-pytorch in batches of 16."""
    portraits = [draw_portrait(n // 4, n % 4).photo for n in range(m.size(64, 4))]
    sizes = {"250x250": (portraits * m.size(8, 1), 1, 1)}
    sizes["1920x1080"] = (portraits[: m.size(32, 1)], 4, 8)
    sizes["4000x3000"] = (portraits[: m.size(4, 1)], 12, 16)
    ours = Detector(mirror_landmarks=False, device=m.device)
    theirs = MTCNN(min_face_size=20, keep_all=True, device=m.device.torch, factor=0.85, thresholds=[0.6, 0.7, 0.9])
    for name, (photos, rows, columns) in list(sizes.items())[: m.size(3, 1)]:
        width, height = map(int, name.split("x"))
        tiled = [np.ascontiguousarray(np.tile(p, (rows, columns, 1))[:height, :width]) for p in photos]
        batches = [np.stack(tiled[start : start + 16]) for start in range(0, len(tiled), 16)]
        runs: dict[str, Callable[[], object]] = {
            "sfplus": lambda tiled=tiled: ours.detect(tiled),
            "facenet-pytorch": lambda batches=batches: [theirs.detect(batch, landmarks=True) for batch in batches],
        }
        for _, measured in m.compare(runs, "facenet-pytorch"):
            yield Figure(f"detect faces, {name}", len(tiled), "photos", **measured)


def alignment(m: Measurement) -> Iterator[Figure]:
    """Cut crops from photos that are on the device, next to one warp after the other on the CPU."""
    portraits = [draw_portrait(n, 0) for n in range(m.size(64, 4))]
    photos, points = [p.photo for p in portraits], np.stack([p.landmarks for p in portraits])
    matrices = fit_similarity(points, "sphereface-112x96", "template")
    repeats = m.size(8, 1)
    batch = m.device.put(torch.from_numpy(np.stack(photos * repeats)).permute(0, 3, 1, 2))
    tiled = np.tile(matrices, (repeats, 1, 1))
    runs: dict[str, Callable[[], object]] = {
        "sfplus": lambda: warp_batch(batch, tiled),
        "on the CPU": lambda: [warp(p, matrix) for p, matrix in zip(photos * repeats, tiled, strict=True)],
    }
    for _, measured in m.compare(runs, "on the CPU"):
        yield Figure("crops of photos of 250x250", len(tiled), "crops", **measured)


def embedding(m: Measurement) -> Iterator[Figure]:
    """Compute features of crops and their mirror images, next to a plain loop, and of photos from their files."""
    crops = torch.randint(0, 256, (m.size(4096, 8), 112, 96, 3), dtype=torch.uint8)
    for name in ("sphereface4",) if m.quick else ("sphereface20", "sphereface64"):
        network = m.device.move(create(name)).eval()
        runs: dict[str, Callable[[], object]] = {
            "float32": lambda network=network: embed_crops(network, crops, m.device),
            "bf16": lambda network=network: embed_crops(network, crops, m.device, dtype="bfloat16"),
            "plain loop": lambda network=network: _plain_features(network, crops, m.device),
        }
        operations = 2 * len(crops) * _operations(network, m.device)
        for precision, measured in m.compare(runs, "plain loop"):
            work = f"features, {name}, {precision}"
            yield Figure(work, len(crops), "crops", **measured, operations=operations, rate=precision)
    files = [draw_portrait(n, 0).jpeg() for n in range(m.size(256, 4))]
    embedder = Embedder(device=m.device)
    for _, measured in m.compare({"sfplus": lambda: embedder(files)}):
        yield Figure("JPEG files of 250x250 to features, shipped model", len(files), "photos", **measured)


@torch.inference_mode()
def _plain_features(network: nn.Module, crops: Tensor, device: Device) -> Tensor:
    """Compute features as most ports do: float images made on the host, two passes, and a wait for each batch."""
    parts = []
    for batch in crops.split(128):
        x = normalize_crops(batch).to(device.torch)
        parts.append(torch.cat([network(x), network(x.flip(3))], 1).cpu())
    return torch.cat(parts)


def _operations(network: nn.Module, device: Device) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 112, 96, device=device.torch))
    return float(counter.get_total_flops())


def training(m: Measurement) -> Iterator[Figure]:
    """Train SphereFace-20 and SphereFace-64 with A-Softmax and 10,572 people, next to the design of the usual port."""
    count, people = m.size(256, 4), PEOPLE
    crops = torch.randint(0, 256, (count, 112, 96, 3), dtype=torch.uint8)
    batch = (m.device.put(crops), m.device.put(torch.randint(people, (count,))))
    for name in ("sphereface4",) if m.quick else ("sphereface20", "sphereface64"):
        runs = {
            "float32": _step(name, batch, people, m, precision="float32"),
            "bf16": _step(name, batch, people, m, precision="bf16"),
            "bf16, class energy": _step(name, batch, people, m, precision="bf16", energy={"power": 2}),
        }
        if m.device.is_cuda:
            runs["TF32"] = _step(name, batch, people, m, tf32=True, precision="float32")
            runs["bf16, torch.compile"] = _step(name, batch, people, m, compiled=True, precision="bf16")
        peer = ""
        if name == "sphereface20":
            peer = "sphereface_pytorch"
            runs[peer] = port(normalize_crops(batch[0]).contiguous(memory_format=torch.contiguous_format), batch[1])
        head = 2 * FEATURES * people
        operations = 3 * count * (_operations(m.device.move(create(name)), m.device) + head)
        for variant, measured in m.compare(runs, peer):
            rate = variant.partition(",")[0]
            work = f"training step, {name}, batch {count}, {variant}"
            yield Figure(work, count, "crops", **measured, operations=operations, rate=rate)


def _step(
    name: str,
    batch: tuple[Tensor, Tensor],
    people: int,
    m: Measurement,
    compiled: bool = False,
    tf32: bool = False,
    **options: Any,
) -> Callable[[], object]:
    """Return an update as the engine does it, with its arithmetic, or with TF32 instead."""
    settings = SolverSettings.model_validate({"batch_size": len(batch[0]), **options})
    network, head = create(name), HEADS["asoftmax"](FEATURES, people)
    task = FaceTask(network, head, Crops(), settings, ProcessGroup(m.device))  # type: ignore[arg-type]
    m.device.move(task.modules).train()
    if compiled:
        network.compile()

    def step() -> None:
        with _tf32() if tf32 else exact_settings():
            task.update(1, batch, measure=False)
        torch.clear_autocast_cache()

    return step


def energies(m: Measurement) -> Iterator[Figure]:
    """Compute the exact energy of all pairs with its gradient, next to autograd on the whole matrix."""
    for count in (m.size(PEOPLE, 300), m.size(100_000, 1000)):
        weight = torch.randn(count, FEATURES, device=m.device.torch, requires_grad=True)
        runs: dict[str, Callable[[], object]] = {
            "sfplus": lambda weight=weight: hyperspherical_energy(weight, 2.0).backward()
        }
        peer = "autograd on the matrix" if count <= PEOPLE else ""
        if peer:
            runs[peer] = lambda weight=weight: dense_energy(weight).backward()
        operations = 3 * count**2 * FEATURES  # half of W W^T, and the gradient of all rows
        for _, measured in m.compare(runs, peer):
            work = f"energy and gradient of {count:,} classifiers of size {FEATURES}"
            yield Figure(work, count * (count - 1) / 2, "pairs", **measured, operations=operations)


def class_parallel(m: Measurement) -> Iterator[Figure]:
    """Compute loss and gradient of A-Softmax with a million classes, all of them or a tenth (Partial FC)."""
    classes, count = m.size(1_000_000, 2000), m.size(512, 8)
    features = torch.randn(count, FEATURES, device=m.device.torch, requires_grad=True)
    labels = torch.randint(classes, (count,), device=m.device.torch)
    heads: dict[str, nn.Module] = {
        "class-parallel, 1 process": ShardedHead(ASoftmax, FEATURES, classes),
        "class-parallel, a tenth of the classes": ShardedHead(ASoftmax, FEATURES, classes, sample_rate=0.1),
        "replicated": ASoftmax(FEATURES, classes),
    }
    runs = {}
    for name, head in heads.items():
        head.to(m.device.torch).train()
        runs[name] = lambda head=head: _head_step(head, features, labels)
    for name, measured in m.compare(runs, "replicated"):
        yield Figure(f"head of {classes:,} classes, {name}", count, "crops", **measured)


def _head_step(head: Any, features: Tensor, labels: Tensor) -> None:
    head.zero_grad(set_to_none=True)
    features.grad = None
    head.loss(features, labels).backward()


def image_tasks(m: Measurement) -> Iterator[Figure]:
    """Train CNN-9 with MHE on images of 32x32 next to a plain loop without, and MHE-GAN next to a plain loop."""
    data, count, width = images(), m.size(128, 8), m.size(64, 4)
    processes = ProcessGroup(m.device)
    runs: dict[str, Callable[[], object]] = {}
    for name, mode in (("with MHE", "mhe"), ("without energy", "none")):
        settings = ClassifySettings.model_validate(
            {"width": width, "batch_size": count, "precision": "float32", "energy": {"mode": mode}}
        )
        network = create_classifier("cnn9", 100, width=width)
        task = _Untested(network, data, data.select(torch.arange(10)), settings, processes, "")
        m.device.move(task.modules).train()
        batch = tuple(map(m.device.put, task.batch(1, slice(0, count))))
        runs[name] = lambda task=task, batch=batch: task.update(1, batch, False)
    runs["plain loop"] = _plain_classifier(data, count, width, m.device)
    for name, measured in m.compare(runs, "plain loop"):
        yield Figure(f"training step, CNN-9, batch {count}, {name}", count, "images", **measured)
    small = data.select(torch.arange(640))
    scale = 1.0 if not m.quick else 0.125
    settings = GenerateSettings.model_validate({"width": scale, "batch_size": 64, "energy": {}})
    task = GanTask(Generator(scale), Discriminator(scale, settings.spectral_norm), small, settings, processes, "")
    m.device.move(task.modules).train()
    runs = {"MHE-GAN": lambda: step(task), "plain loop without energy": lambda: plain_step(task)}
    for name, measured in m.compare(runs, "plain loop without energy"):
        yield Figure(f"training step, {name}, batch 64", 64, "images", **measured)


def _plain_classifier(data: Any, count: int, width: int, device: Device) -> Callable[[], object]:
    network = device.move(create_classifier("cnn9", 100, width=width)).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, 0.9, weight_decay=5e-4)
    x, y = device.put(normalize_images(data.images[:count])), device.put(data.labels[:count])

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return run


KINDS: dict[str, Callable[[Measurement], Iterator[Figure]]] = {
    "rates": rates,
    "detection": detection,
    "alignment": alignment,
    "embedding": embedding,
    "training": training,
    "energies": energies,
    "class_parallel": class_parallel,
    "image_tasks": image_tasks,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    kind, name, quick = sys.argv[1:]
    for figure in KINDS[kind](Measurement(choose_device(name), quick == "quick")):
        print(json.dumps(asdict(figure)), flush=True)
