"""The package imports torch only when it is needed, and torch's compiler and torchvision not at all."""

import subprocess
import sys

import pytest

_USE = """
import sys, sfplus
assert "torch" not in sys.modules
sfplus.Detector, sfplus.Embedder
assert "torch" in sys.modules
import numpy as np, sfplus.hypersphere
sfplus.Detector(device="cpu").detect(np.zeros((40, 40, 3), np.uint8))
sfplus.Embedder(device="cpu").features(np.zeros((112, 96, 3), np.uint8))
print(*sorted({"torch._dynamo", "torchvision", "sympy", "triton", "facenet_pytorch"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_torch_is_imported_with_the_first_public_name_and_never_its_compiler() -> None:
    """One process for the package, the detector and a model, since each takes seconds to import torch."""
    answer = subprocess.run([sys.executable, "-c", _USE], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "\n"), answer
