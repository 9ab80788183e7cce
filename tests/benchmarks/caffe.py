"""Time and memory to load SphereFace-20 (91 MB) from a .caffemodel, beside OpenCV's importer and safetensors.

Each load runs in a process of its own, the contestants take turns; the file is in the system's cache. Memory is what
the process's peak grows by during the load (Linux only). Run with nothing else on the machine: make bench
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

from sfplus.networks import create
from sfplus.weights.caffe import write_caffemodel
from sfplus.weights.caffe_networks import to_caffe
from sfplus.weights.model_folder import save_model
from sfplus.weights.prototxt import write_prototxt

ROUNDS = 5
LOADS = {
    "read_caffemodel, every number summed": (
        "from sfplus.weights.caffe import read_caffemodel",
        "model = read_caffemodel(Path('x.caffemodel'))",
    ),
    "networks.create from .caffemodel": (
        "from sfplus.networks import create; import sfplus.weights.loading, sfplus.weights.caffe",
        "model = create('sphereface20', weights='x.caffemodel')",
    ),
    "load_model from safetensors": (
        "from sfplus.weights.loading import load_model",
        "model = load_model(Path('folder'))",
    ),
    "cv2.dnn.readNetFromCaffe": (
        "import cv2",
        "model = cv2.dnn.readNetFromCaffe('x.prototxt', 'x.caffemodel')",
    ),
}
RUN = """
import time
from pathlib import Path
{prepare}
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before, clock = peak(), time.perf_counter()
{load}
if hasattr(model, "blobs"):
    total = sum(float(blob.sum()) for blobs in model.blobs.values() for blob in blobs)
print(time.perf_counter() - clock, (peak() - before) / 1024)
"""


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        network = create("sphereface20").eval()
        deploy, model = to_caffe(network, "x")  # type: ignore[arg-type]
        write_prototxt(folder / "x.prototxt", deploy)
        write_caffemodel(folder / "x.caffemodel", model)
        save_model(folder / "folder", network, {"network": "sphereface20", "feature_size": 512, "width": 1.0})
        size = (folder / "x.caffemodel").stat().st_size / 2**20
        found: dict[str, list[list[float]]] = {load: [] for load in LOADS}
        for turn in range(ROUNDS + 1):
            for load, (prepare, line) in LOADS.items():
                code = RUN.format(prepare=prepare, load=line)
                done = subprocess.run(
                    [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
                )
                if turn:  # the first one fills the cache
                    found[load].append([float(word) for word in done.stdout.split()])
    print(f"  a .caffemodel of {size:.0f} MiB")
    for load, rows in found.items():
        seconds, memory = (median(column) for column in zip(*rows, strict=True))
        print(f"  load    {load:<40} {1000 * seconds:7.0f} ms  {memory:6.0f} MiB  {memory / size:5.2f} x the file")


if __name__ == "__main__":
    main()
