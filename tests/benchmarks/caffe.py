"""Time and memory of loading SphereFace-20 (91 MB) from a .caffemodel, compared with OpenCV and safetensors.

Each load runs in a new process, and the loaders take turns; the file is in the cache of the system. Memory is the
growth of the process's peak during the load (Linux only). Run it on an idle machine: make bench
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
LOADERS = {  # imports, which are not measured, and the load
    "read_caffemodel, and the sum of all numbers": (
        "from sfplus.weights.caffe import read_caffemodel",
        "model = read_caffemodel(Path('x.caffemodel'))",
    ),
    "create_network from .caffemodel": (
        "from sfplus.weights.loading import create_network; import sfplus.networks.sphereface",
        "model = create_network('sphereface20', 'x.caffemodel')",
    ),
    "load_model from safetensors": (
        "from sfplus.weights.loading import load_model; import sfplus.networks.sphereface",
        "model = load_model(Path('folder'))",
    ),
    "cv2.dnn.readNetFromCaffe": (
        "import cv2",
        "model = cv2.dnn.readNetFromCaffe('x.prototxt', 'x.caffemodel')",
    ),
}
SCRIPT = """
import time
from pathlib import Path
{imports}
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before, clock = peak(), time.perf_counter()
{load}
if hasattr(model, "blobs"):
    total = sum(float(blob.sum()) for blobs in model.blobs.values() for blob in blobs)
print(time.perf_counter() - clock, (peak() - before) / 1024)
"""


def main() -> None:
    """Measure all loaders and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        network = create("sphereface20").eval()
        deploy, model = to_caffe(network, "x")  # type: ignore[arg-type]
        write_prototxt(folder / "x.prototxt", deploy)
        write_caffemodel(folder / "x.caffemodel", model)
        save_model(folder / "folder", network, {"network": "sphereface20", "feature_size": 512, "width": 1.0})
        size = (folder / "x.caffemodel").stat().st_size / 2**20
        results: dict[str, list[list[float]]] = {loader: [] for loader in LOADERS}
        for turn in range(ROUNDS + 1):
            for loader, (imports, load) in LOADERS.items():
                code = SCRIPT.format(imports=imports, load=load)
                process = subprocess.run(
                    [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
                )
                if turn:  # the first turn fills the cache
                    results[loader].append([float(word) for word in process.stdout.split()])
    print(f"  a .caffemodel of {size:.0f} MiB")
    for loader, rows in results.items():
        seconds, memory = (median(column) for column in zip(*rows, strict=True))
        print(f"  load    {loader:<44} {1000 * seconds:7.0f} ms  {memory:6.0f} MiB  {memory / size:5.2f} x the file")


if __name__ == "__main__":
    main()
