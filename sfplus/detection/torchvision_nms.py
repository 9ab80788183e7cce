"""torchvision's non-maximum suppression on a CPU, without the import of torchvision.

Importing torchvision also imports torch's compiler with SymPy and Triton, which takes 160 MB and, after torch itself,
as much time again. Its operators are in a library of their own, which torch can load.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from sfplus.io.extras import import_torchvision


def _load_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    for library in sorted(Path(spec.origin).parent.glob("_C*")) if spec and spec.origin else ():
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        except OSError:
            continue
        if hasattr(torch.ops.torchvision, "nms"):
            return
    import_torchvision()  # of another layout, or one that says why it does not work


_load_operators()


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppress boxes by intersection over union.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        threshold: boxes that overlap a better one by more are dropped.

    Returns:
        int64 indices of the kept boxes, highest score first.
    """
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, threshold)
    return kept
