"""The operators of torchvision without its import."""

import subprocess
import sys

import pytest
import torch

from sfplus.detection import torchvision_nms

_DETECT = """
import sys
import numpy as np
from sfplus.detection import Detector
Detector(device="cpu").detect(np.zeros((40, 40, 3), np.uint8))
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torchvision", "sympy", "triton", "facenet_pytorch"}))
"""


def test_detection_imports_neither_torchvision_nor_the_compiler_of_torch() -> None:
    answer = subprocess.run([sys.executable, "-c", _DETECT], capture_output=True, text=True, check=True)
    assert answer.stdout == "\n"


def test_torchvision_is_imported_if_its_library_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError

    monkeypatch.setattr(torch.ops, "load_library", refuse)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision"):
        torchvision_nms._load_operators()
