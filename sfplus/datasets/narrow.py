"""Crops of the ArcFace template as crops of the SphereFace template."""

from __future__ import annotations

import numpy as np

from sfplus.errors import PhotoError
from sfplus.images import Pixels

# insightface's template is SphereFace's with 8 columns more on each side (see sfplus/alignment/templates.py).
_LEFT, _WIDTH = 8, 96


def narrow_crop(crop: Pixels, name: str) -> Pixels:
    """Return the central 112x96 pixels of a 112x112 crop, in which the face is as in the narrower template.

    Args:
        crop: uint8 RGB (112, 112, 3).
        name: Name of the crop in messages.

    Returns:
        uint8 RGB (112, 96, 3), contiguous.

    Raises:
        PhotoError: If the crop has another size.
    """
    if crop.shape[:2] != (112, 112):
        raise PhotoError(f"is {crop.shape[0]}x{crop.shape[1]}, not 112x112", where=name)
    return np.ascontiguousarray(crop[:, _LEFT : _LEFT + _WIDTH])
