"""The faces of one photo with their crops and features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfplus.detection.faces import Faces
from sfplus.errors import UsageError


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddedFaces(Faces):
    """The N faces of one photo with their crops and features, sorted by descending score; the arrays are read-only.

    Attributes:
        crops: uint8 RGB (N, H, W, 3), aligned to the template of the model.
        features: float32 (N, D).

    Raises:
        UsageError: If the numbers of scores, boxes, landmarks, crops and features differ.
    """

    crops: NDArray[np.uint8]
    features: NDArray[np.float32]

    def __post_init__(self) -> None:
        order = np.argsort(-np.array(self.scores, np.float32), kind="stable")  # as in `Faces`
        for name in ("crops", "features"):
            array = getattr(self, name)
            if len(array) != len(order):
                raise UsageError(f"expected {len(order)}, got {len(array)}", where=f"EmbeddedFaces.{name}")
            array = array[order]
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        super().__post_init__()
