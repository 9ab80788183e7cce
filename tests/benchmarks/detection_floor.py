"""What remains of the time of detection above the floor of the machine, layer by layer, on one thread of a CPU.

The floor of a layer is its multiply-adds at the best rate that any layer or large matrix product reaches. That of any
other step is the bytes that it has to read and write, at the best rate of a copy. Rows that only fill up batches, and
gaps between the levels of a canvas, are above the floor. All times are CPU times.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from facenet_pytorch import MTCNN

from sfplus.detection import Detector, mtcnn, mtcnn_networks, pyramid
from sfplus.detection.integral_images import IntegralImages
from sfplus.detection.pyramid_plan import Plan

NETWORKS = {"pnet": "P-Net", "rnet": "R-Net", "onet": "O-Net"}
NETWORK_OF_SIDE = {24: "R-Net", 48: "O-Net"}
PIXEL = 5 * 16  # bytes: four sums are read, a pixel is written
LAYERS = {  # by outputs and inputs
    (shape[0], 4 if layer == "conv1" else shape[1]): f"{NETWORKS[network]} {layer}"
    for network, layers in mtcnn_networks._LAYERS.items() for layer, shape in layers.items()
}  # fmt: skip


class Work:
    """Seconds, multiply-adds and bytes of the steps of detection, and what share of each network's rows is needed."""

    def __init__(self, plan: Callable[[int, int], Plan]) -> None:
        self._plan = plan  # of the pyramid of a photo's size
        self.seconds: Counter[str] = Counter()
        self.adds: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.needed: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._inner = [0.0]  # seconds of the functions that were called by each running one

    def watch(self, owner: Any, attribute: str, step: str = "", count: Callable[..., str | None] | None = None) -> Any:
        """Return a patch that times a function without the functions that it calls; `count` may return the step."""
        function = getattr(owner, attribute)

        def timed(*arguments: Any, **options: Any) -> Any:
            clock = time.process_time()
            self._inner.append(0.0)
            result = function(*arguments, **options)
            spent = time.process_time() - clock
            counted = count(result, *arguments) if count else None
            self.seconds[counted or step] += spent - self._inner.pop()
            self._inner[-1] += time.process_time() - clock
            return result

        return patch.object(owner, attribute, timed)

    def layer(self, result: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, *_: Any) -> str:
        step = LAYERS[weight.shape[0], weight.shape[1]]
        channels = 3 / 4 if step.endswith("conv1") else 1  # the fourth channel is only for alignment
        self.adds[step] += int(result.numel() * weight[0].numel() * channels)
        self.bytes[f"{step[:5]} PReLU, pooling"] += 2 * result.nbytes
        return step

    def canvas(self, result: torch.Tensor, *_: Any) -> None:
        self.bytes["P-Net canvases"] += result.numel() // 4 * PIXEL
        self.done["P-Net"] += result.numel() // 4

    def crops(self, result: torch.Tensor, *_: Any) -> str:
        network = NETWORK_OF_SIDE[result.shape[2]]
        self.bytes[f"{network} crops"] += result.numel() // 4 * PIXEL
        self.done[network] += len(result)
        return f"{network} crops"

    def candidates(self, _: Any, *arguments: Any) -> None:
        self.needed[NETWORK_OF_SIDE[arguments[5]]] += len(arguments[3])

    def sums(self, _: Any, __: IntegralImages, photos: list[np.ndarray], *___: Any) -> None:
        self.bytes["integral images"] += sum(photo.nbytes + 16 * photo.size // 3 for photo in photos)
        for height, width, _ in (photo.shape for photo in photos):
            self.needed["P-Net"] += sum(rows * columns for rows, columns in self._plan(height, width).sides)


def measure(detector: Detector, images: list[np.ndarray], rounds: int) -> Work:
    """Detect `images` several times and return the work; none may be so large that its sums are computed in parts."""
    work, networks = Work(detector._pyramid.plan), detector._networks
    patches = [
        work.watch(detector, "_detect", "everything else"),
        work.watch(detector, "_run_network", "everything else", work.candidates),
        work.watch(IntegralImages, "__init__", "integral images", work.sums),
        work.watch(pyramid, "build_canvas", "tables of canvases"),
        work.watch(IntegralImages, "draw_canvas", "P-Net canvases", work.canvas),
        work.watch(IntegralImages, "crop_and_resize", "", work.crops),
        work.watch(mtcnn, "suppress", "suppression"),
        work.watch(mtcnn, "suppress_nested", "suppression"),
        work.watch(networks, "search", "P-Net PReLU, pooling"),
        work.watch(networks, "refine", "R-Net PReLU, pooling"),
        work.watch(networks, "output", "O-Net PReLU, pooling"),
        work.watch(mtcnn_networks, "conv2d", "", work.layer),
        work.watch(mtcnn_networks, "linear", "", work.layer),
    ]
    with contextlib.ExitStack() as stack:
        for entered in patches:
            stack.enter_context(entered)
        for _ in range(rounds):
            detector.detect(images)
    return work


def fastest(run: Callable[[], object], rounds: int = 20) -> float:
    """Return the CPU seconds of the fastest of several runs."""
    seconds = []
    for _ in range(rounds):
        clock = time.process_time()
        run()
        seconds.append(time.process_time() - clock)
    return min(seconds)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def print_floor(title: str, images: list[np.ndarray], settings: dict[str, Any], rounds: int = 3) -> None:
    """Print the milliseconds per photo of each step and its floor, and what facenet-pytorch takes against the floor.

    Args:
        title: of the photos.
        images: facenet-pytorch gets those of one size together, others one by one.
        settings: factor and thresholds of both detectors.
        rounds: of the measurement.
    """
    ours, theirs = Detector(mirror_landmarks=False, device="cpu"), MTCNN(min_face_size=20, keep_all=True, **settings)
    matrix, same = torch.randn(1024, 1024), len({image.shape for image in images}) == 1
    batches = [np.stack(images)] if same else images
    runs = {
        "sfplus": lambda: ours.detect(images),
        "facenet-pytorch": lambda: [theirs.detect(batch, landmarks=True) for batch in batches],
    }
    seconds = {name: fastest(run, rounds + 1) for name, run in runs.items()}
    work, scale = measure(ours, images, rounds), 1000 / len(images)
    adds = max(
        1024**3 / fastest(lambda: matrix @ matrix), *(work.adds[step] / work.seconds[step] for step in work.adds)
    )
    rate = 2 * matrix.nbytes / fastest(matrix.clone)
    share = {network: work.needed[network] / done for network, done in work.done.items()}
    print(f"  floor   {title}: one thread, {adds / 1e9:.0f} G multiply-adds/s and {rate / 1e9:.0f} GB/s, ms per photo:")
    total = 0.0
    for step in sorted(work.seconds, key=lambda step: (step[:5] not in share, step)):
        floor = (work.adds[step] / adds + work.bytes[step] / rate) * share.get(step[:5], 1) * scale / rounds
        total += floor
        print(f"  floor   {step:<52} {work.seconds[step] * scale / rounds:6.2f}  floor {floor:6.2f}")
    now, other = seconds["sfplus"] * scale, seconds["facenet-pytorch"] * scale
    print(f"  floor   {'together':<52} {now:6.2f}  floor {total:6.2f}")
    print(f"  floor   facenet-pytorch {other:.2f} ms: {other / now:.2f} x now, {other / total:.2f} x at the floor")
    layers = sum(work.seconds[step] for step in work.adds) * scale / rounds
    print(f"  floor   5 x is {other / 5:.2f} ms; oneDNN's layers alone take {layers:.2f} ms: {other / layers:.2f} x")
