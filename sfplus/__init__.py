"""sfplus: face recognition on the hypersphere, from folders of photos to a verification report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfplus.detection import Detector, Faces
    from sfplus.embedder import Embedder

__version__ = "0.1.0"
__all__ = ["Detector", "Embedder", "Faces", "__version__"]

_HOMES = {"Detector": "sfplus.detection", "Faces": "sfplus.detection", "Embedder": "sfplus.embedder"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: importing sfplus alone does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sfplus' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
