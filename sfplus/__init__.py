"""sfplus: face recognition on the hypersphere, from folders of photos to a verification report."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfplus.detection import Detector, Faces
    from sfplus.embedder import Embedder

__version__ = "0.1.0"
__all__ = ["Detector", "Embedder", "Faces", "__version__"]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that configures nothing sees nothing

_MODULES = {"Detector": "sfplus.detection", "Faces": "sfplus.detection", "Embedder": "sfplus.embedder"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that importing sfplus does not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'sfplus' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)
