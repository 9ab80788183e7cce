"""Box arithmetic of MTCNN."""

from __future__ import annotations

import torch
from torch import Tensor


def to_squares(boxes: Tensor, whole_pixels: bool = False) -> Tensor:
    """Enlarge boxes to squares with the same centres (rerec.m).

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        whole_pixels: round towards zero, as the original does.

    Returns:
        (N, 4).
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.amax(1, keepdim=True)
    first = boxes[:, :2] + sides / 2 - longest / 2
    squares = torch.cat([first, first + longest], 1)
    return squares.trunc() if whole_pixels else squares


def shift_boxes(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Apply bounding-box regression (bbreg.m).

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        shifts: (N, 4), fractions of the sides, which are counted inclusively.

    Returns:
        (N, 4).
    """
    return boxes + shifts * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
