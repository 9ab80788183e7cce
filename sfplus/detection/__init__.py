"""Face detection, with MTCNN or another detector, and the choice of one face of a photo."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sfplus.detection.choose import Choice, choose, choose_all
from sfplus.detection.faces import Faces

if TYPE_CHECKING:
    from sfplus.detection.interface import FaceDetector
    from sfplus.detection.mtcnn import Detector
    from sfplus.detection.turned import TurnedDetector
    from sfplus.detection.yunet import YuNet

__all__ = ["Choice", "Detector", "FaceDetector", "Faces", "TurnedDetector", "YuNet", "choose", "choose_all"]


_LAZY = {
    "Detector": "sfplus.detection.mtcnn",
    "FaceDetector": "sfplus.detection.interface",
    "TurnedDetector": "sfplus.detection.turned",
    "YuNet": "sfplus.detection.yunet",
}


def __getattr__(name: str) -> Any:
    """Load a detector on first use: importing this package does not import torch."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
