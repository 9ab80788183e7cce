"""Face detection with MTCNN, and the choice of one face of a photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfplus.detection.choose import Choice, choose, choose_all
from sfplus.detection.faces import Faces

if TYPE_CHECKING:
    from sfplus.detection.mtcnn import Detector

__all__ = ["Choice", "Detector", "Faces", "choose", "choose_all"]


def __getattr__(name: str) -> Any:
    if name == "Detector":  # imports torch, which takes seconds
        from sfplus.detection.mtcnn import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
