"""SphereFace-20: crops to features with their mirror images, against what else runs this network on a CPU.

Same crops, same weights, same threads; each contestant with the fastest of a few batch sizes, then in turns. The floor
is the time that the multiplications alone take at the machine's best sgemm rate: torch's matmul, numpy's or oneDNN's.
Needs the extra `onnx`. Run with nothing else on the machine: make bench
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import onnxruntime
import torch

from sfplus.device import choose_device
from sfplus.networks import create
from sfplus.networks.embed import embed_crops

CROPS, ROUNDS, SIZES = 64, 5, (8, 16, 32)
Run = Callable[[], np.ndarray]


def batches(crops: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(crops), size):
        yield crops[start : start + size]


def blob(crops: np.ndarray) -> np.ndarray:
    """BGR, (x - 127.5) / 128, planes: what Caffe's networks read."""
    return np.ascontiguousarray(((crops[..., ::-1] - np.float32(127.5)) / 128).transpose(0, 3, 1, 2))


def usual_port(network: torch.nn.Module, crops: np.ndarray, size: int) -> np.ndarray:
    """As the ports do it: eager, contiguous, a second pass for the mirror images."""
    with torch.no_grad():
        return np.concatenate([
            np.hstack([network(torch.from_numpy(blob(crops))).numpy() for crops in (batch, batch[:, :, ::-1])])
            for batch in batches(crops, size)
        ])  # fmt: skip


def other(run: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, size: int) -> np.ndarray:
    """Another engine; crops and mirror images in one pass."""
    features = []
    for batch in batches(crops, size // 2):
        both = run(blob(np.concatenate([batch, batch[:, :, ::-1]])))
        features.append(np.hstack(np.split(both, 2)))
    return np.concatenate(features)


def opencv(file: str) -> Callable[[np.ndarray], np.ndarray]:
    network = cv2.dnn.readNetFromONNX(file)

    def run(batch: np.ndarray) -> np.ndarray:
        network.setInput(batch)
        return network.forward().copy()  # type: ignore[no-any-return]

    return run


def ort(file: str) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"crops": batch})[0]  # type: ignore[no-any-return]


def export(network: torch.nn.Module, file: str) -> None:
    example = torch.zeros(2, 3, 112, 96)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        network, (example,), file, input_names=["crops"], dynamic_shapes=shapes, external_data=False, verbose=False
    )


def seconds(run: Callable[[], object]) -> float:
    clock = time.perf_counter()
    run()
    return time.perf_counter() - clock


def sgemm() -> dict[str, Callable[[], object]]:
    """The same product of two 2048 x 2048 matrices by three libraries."""
    a, b = torch.randn(2, 2048, 2048).unbind()
    left, right = a.numpy(), b.numpy()
    pointwise = torch.ops.mkldnn._linear_pointwise  # oneDNN, which torch's matmul does not use for float32
    return {
        "torch": lambda: a @ b,
        "numpy": lambda: left @ right,
        "oneDNN": lambda: pointwise(a, b, None, "none", [], ""),
    }


def operations(network: torch.nn.Module) -> float:
    """Multiplications and additions of one crop."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 112, 96))
    return float(counter.get_total_flops())


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    cv2.setNumThreads(torch.get_num_threads())
    device = choose_device("cpu")
    crops = np.random.default_rng(0).integers(0, 256, (CROPS, 112, 96, 3), dtype=np.uint8)
    planes, ours = (create("sphereface20").eval() for _ in range(2))
    ours.load_state_dict(planes.state_dict())
    device.place(ours)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        file = str(Path(folder) / "sphereface20.onnx")
        export(planes, file)
        engines = {"onnxruntime": ort(file), "cv2.dnn": opencv(file)}
    tensor = torch.from_numpy(crops)
    kinds: dict[str, Callable[[int], np.ndarray]] = {
        "sfplus": lambda size: embed_crops(ours, tensor, device),
        "sfplus, bfloat16": lambda size: embed_crops(ours, tensor, device, dtype="bfloat16"),
        "the usual port": lambda size: usual_port(planes, crops, size),
    } | {name: lambda size, run=run: other(run, crops, size) for name, run in engines.items()}
    truth = kinds["sfplus"](0)
    runs: dict[str, Run] = {}
    for name, kind in kinds.items():
        error = float(np.linalg.norm(kind(SIZES[0]) - truth) / np.linalg.norm(truth))
        assert error < (1e-2 if "bfloat16" in name else 1e-5), (name, error)
        tries = {size: seconds(partial(kind, size)) for size in SIZES}
        best = min(tries, key=tries.__getitem__)
        runs[name if name.startswith("sfplus") else f"{name}, batches of {best}"] = partial(kind, best)

    products = sgemm()
    taken: dict[str, list[float]] = {name: [] for name in (*runs, *products)}
    for turn in range(ROUNDS + 1):
        for name, run in (*runs.items(), *products.items()):
            took = seconds(run)
            if turn:  # the first one warms up
                taken[name].append(took)
    rate = max(2 * 2048**3 / median(taken[name]) for name in products)
    work = operations(planes)
    floor = 2 * work / rate
    rates = ", ".join(f"{name} {2 * 2048**3 / median(taken[name]) / 1e9:.0f}" for name in products)
    print(f"{device.describe()}; {CROPS} crops of 112 x 96 and their mirror images; median of {ROUNDS} rounds (best)")
    print(f"  sgemm {rates} GFLOP/s; {work / 1e9:.2f} GFLOP an image; floor {1000 * floor:.1f} ms a crop")
    base = median(taken["sfplus"])
    for name in runs:
        each, best = median(taken[name]), min(taken[name])
        print(
            f"  {name:<34} {CROPS / each:6.1f} crops/s ({CROPS / best:6.1f})  {each / base:5.2f} x sfplus's time  "
            f"{each / CROPS / floor:5.2f} x the floor"
        )
    spread = max(max(taken[name]) / min(taken[name]) for name in runs)
    if spread > 1.15:
        print(f"  noisy: rounds differ by up to {spread:.2f} x; something else runs on this machine")


if __name__ == "__main__":
    main()
