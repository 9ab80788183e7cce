"""SphereFace-20: features of crops and their mirror images, compared with other engines on a CPU.

All contestants have the same crops, weights and threads; each uses the fastest of a few batch sizes, and they take
turns. The floor is the time of the multiplications alone at the machine's best sgemm rate: torch's matmul, numpy's or
oneDNN's. A table shows each layer beside its floor, and the sum of the convolutions, which no engine that uses torch's
can undercut. Needs the extra `onnx`. Run on an otherwise idle machine: make bench
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import onnxruntime
import torch
from racing import race

from sfplus.device import choose_device
from sfplus.networks import create
from sfplus.networks.embed import embed_crops

CROPS, ROUNDS, SIZES = 32, 3, (8, 16, 32)
IMAGES = 16  # of a pass of sfplus, mirror images included
Run = Callable[[], np.ndarray]


def batches(crops: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(crops), size):
        yield crops[start : start + size]


def blob(crops: np.ndarray) -> np.ndarray:
    """Return the input of Caffe's networks: BGR, (x - 127.5) / 128, channels first."""
    return np.ascontiguousarray(((crops[..., ::-1] - np.float32(127.5)) / 128).transpose(0, 3, 1, 2))


def usual_port(network: torch.nn.Module, crops: np.ndarray, size: int) -> np.ndarray:
    """Compute features as most ports do: eager, contiguous, with a second pass for the mirror images."""
    with torch.no_grad():
        return np.concatenate([
            np.hstack([network(torch.from_numpy(blob(crops))).numpy() for crops in (batch, batch[:, :, ::-1])])
            for batch in batches(crops, size)
        ])  # fmt: skip


def with_engine(run: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, size: int) -> np.ndarray:
    """Compute features with another engine, crops and mirror images in one pass."""
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
    """Return the product of the same two 2048x2048 matrices by three libraries."""
    a, b = torch.randn(2, 2048, 2048).unbind()
    left, right = a.numpy(), b.numpy()
    pointwise = torch.ops.mkldnn._linear_pointwise  # oneDNN, which torch.matmul does not use for float32
    return {
        "torch": lambda: a @ b,
        "numpy": lambda: left @ right,
        "oneDNN": lambda: pointwise(a, b, None, "none", [], ""),
    }


def operations(network: torch.nn.Module) -> float:
    """Count the multiplications and additions of one crop."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 112, 96))
    return float(counter.get_total_flops())


def print_layers(network: torch.nn.Module, rate: float, port: float, ours: float) -> None:
    """Print the milliseconds of each layer per crop beside its floor, and what the convolutions alone would allow.

    Args:
        network: in channels_last.
        rate: operations of sgemm per second.
        port: seconds per crop of the usual port.
        ours: seconds per crop of sfplus in float32.
    """
    inputs, positions = {}, {}
    for name, layer in network.named_children():

        def keep(_: object, x: tuple[torch.Tensor], y: torch.Tensor, name: str = name) -> None:
            inputs[name], positions[name] = x[0], y.numel() // y.shape[1]

        layer.register_forward_hook(keep)
    network(torch.randn(IMAGES, 3, 112, 96).to(memory_format=torch.channels_last))
    layers = dict(network.named_children())
    for layer in layers.values():
        layer._forward_hooks.clear()
    runs = {name: partial(layer, inputs[name]) for name, layer in layers.items()}
    half = {name: deepcopy(layer).bfloat16() for name, layer in layers.items() if name.startswith("conv")}
    halves = {name: inputs[name].bfloat16() for name in half}
    runs["bfloat16"] = lambda: [layer(halves[name]) for name, layer in half.items()]
    times = race(runs, ROUNDS)
    milliseconds = {name: 2000 * value / IMAGES for name, value in times.items()}  # of a crop and its mirror image
    print("  layer      ms per crop   floor   PReLU")
    for name, layer in layers.items():
        if not name.startswith("relu"):
            floor = 2000 * 2 * layer.weight.numel() * positions[name] / rate / IMAGES
            prelu = milliseconds.get(name.replace("conv", "relu"), 0.0) if name.startswith("conv") else 0.0
            print(f"  {name:<10} {milliseconds[name]:11.2f} {floor:7.2f} {prelu:7.2f}")
    convolutions = sum(value for name, value in milliseconds.items() if name.startswith("conv"))
    limit = 1000 * port / convolutions
    print(f"  all convolutions alone {convolutions:.1f} ms: no more than {limit:.2f} x the usual port")
    convolutions = milliseconds["bfloat16"]
    limit = 1000 * ours / convolutions
    print(f"  in bfloat16 {convolutions:.1f} ms: no more than {limit:.2f} x sfplus in float32")


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    cv2.setNumThreads(torch.get_num_threads())
    device = choose_device("cpu")
    crops = np.random.default_rng(0).integers(0, 256, (CROPS, 112, 96, 3), dtype=np.uint8)
    contiguous, ours = (create("sphereface20").eval() for _ in range(2))
    ours.load_state_dict(contiguous.state_dict())
    device.move(ours)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        file = str(Path(folder) / "sphereface20.onnx")
        export(contiguous, file)
        engines = {"onnxruntime": ort(file), "cv2.dnn": opencv(file)}
    tensor = torch.from_numpy(crops)
    contestants: dict[str, Callable[[int], np.ndarray]] = {
        "sfplus": lambda size: embed_crops(ours, tensor, device),
        "sfplus, bfloat16": lambda size: embed_crops(ours, tensor, device, dtype="bfloat16"),
        "the usual port": lambda size: usual_port(contiguous, crops, size),
    } | {name: lambda size, run=run: with_engine(run, crops, size) for name, run in engines.items()}
    reference = contestants["sfplus"](0)
    runs: dict[str, Run] = {}
    for name, contestant in contestants.items():
        error = float(np.linalg.norm(contestant(SIZES[0]) - reference) / np.linalg.norm(reference))
        assert error < (1e-2 if "bfloat16" in name else 1e-5), (name, error)
        durations = {size: seconds(partial(contestant, size)) for size in SIZES}
        best = min(durations, key=durations.__getitem__)
        runs[name if name.startswith("sfplus") else f"{name}, batches of {best}"] = partial(contestant, best)

    products = sgemm()
    durations_of: dict[str, list[float]] = {name: [] for name in (*runs, *products)}
    for round_ in range(ROUNDS + 1):
        for name, run in (*runs.items(), *products.items()):
            duration = seconds(run)
            if round_:  # round 0 is the warm-up
                durations_of[name].append(duration)
    rate = max(2 * 2048**3 / median(durations_of[name]) for name in products)
    work = operations(contiguous)
    floor = 2 * work / rate
    rates = ", ".join(f"{name} {2 * 2048**3 / median(durations_of[name]) / 1e9:.0f}" for name in products)
    print(f"{device.describe()}; {CROPS} crops of 112x96 and their mirror images; median of {ROUNDS} rounds (best)")
    print(f"  sgemm {rates} GFLOP/s; {work / 1e9:.2f} GFLOP per image; floor {1000 * floor:.1f} ms per crop")
    base = median(durations_of["sfplus"])
    for name in runs:
        middle, best = median(durations_of[name]), min(durations_of[name])
        print(
            f"  {name:<34} {CROPS / middle:6.1f} crops/s ({CROPS / best:6.1f})  "
            f"{middle / base:5.2f} x the time of sfplus  {middle / CROPS / floor:5.2f} x the floor"
        )
    print_layers(ours, rate, min(median(durations_of[name]) for name in runs if "port" in name) / CROPS, base / CROPS)
    ratio = max(max(durations_of[name]) / min(durations_of[name]) for name in runs)
    if ratio > 1.15:
        print(f"  noisy: rounds differ by up to {ratio:.2f} x; the machine is not idle")


if __name__ == "__main__":
    main()
