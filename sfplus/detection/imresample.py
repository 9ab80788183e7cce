"""Resizing as the original MATLAB cascade does it: imResample(..., 'bilinear') of Dollar's toolbox, and pad.m.

Downwards imResample takes means over areas whose edges lie between pixels, upwards it interpolates linearly. Both are
sums of four looked-up values of the integral along each axis; beyond the photo the integral stays as it is at the
border, which is to say that the pixels there are 0.
"""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import torch
from torch import Tensor

from sfplus.detection.pyramid import Canvas, Integrals

_LEAST = 1e-3  # of a pixel: imResampleMex.cpp leaves out less


class ExactIntegrals(Integrals):
    """Integral images in float64, 32 bytes a pixel, with the original's ways of resizing."""

    depth: ClassVar[tuple[int, Any]] = (cv2.CV_64F, "float64")

    def canvas(self, owners: Tensor, canvas: Canvas) -> Tensor:
        """Draw a canvas for each of some photos of its size: float32 (B, 4, h, w), channels last; the last is void."""
        drawn = torch.zeros(len(owners), canvas.height, canvas.width, 4, device=owners.device)
        size = self._sizes[owners[:1]]
        for piece in canvas.pieces:
            height, width = canvas.sides[piece.level]
            (rows, down), (columns, across) = _taps(size[:, 0], height), _taps(size[:, 1], width)
            strip = slice(piece.top, piece.top + piece.height)
            drawn[:, piece.y : piece.y + piece.height, piece.x : piece.x + piece.width] = self._sample(
                owners, rows[:, :, strip], down[:, :, strip], columns, across
            )
        return drawn.permute(0, 3, 1, 2)

    def cut(self, owners: Tensor, parts: Tensor, side: int, mirrored: bool = False) -> Tensor:
        """Cut parts of photos, black where there is no photo, and resize them: float32 (N, 4, side, side)."""
        columns, across = _taps(parts[:, 2] - parts[:, 0], side)
        rows, down = _taps(parts[:, 3] - parts[:, 1], side)
        seen = self._sample(owners, rows + parts[:, 1, None, None], down, columns + parts[:, 0, None, None], across)
        return (seen.flip(2) if mirrored else seen).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def _sample(self, owners: Tensor, rows: Tensor, down: Tensor, columns: Tensor, across: Tensor) -> Tensor:
        """Rows and columns to look up (N or 1, 4, side) and their weights: float32 (N, height, width, 4)."""
        height, width = self._sizes[owners].unbind(1)
        rows = torch.minimum(rows.clamp(min=0), height[:, None, None]) * (width[:, None, None] + 1)
        columns = torch.minimum(columns.clamp(min=0), width[:, None, None])
        rows = rows + self._starts[owners, None, None]
        looked_up = rows[:, :, :, None, None] + columns[:, None, None]  # (N, 4, height, 4, width)
        sums = self._sums.index_select(0, looked_up.flatten()).view(*looked_up.shape, 4)
        means = ((sums * down[:, :, :, None, None, None]).sum(1) * across[:, None, :, :, None]).sum(2)
        return ((means - 127.5) / 128).float()


def _taps(length: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where to look up the integral along an axis, and how much of it to take (imResampleMex.cpp, resampleCoef).

    Args:
        length: int (N,), pixels before resizing.
        count: pixels after it.

    Returns:
        int64 (N, 4, count) and float64 (N, 4, count).
    """
    pixels = length[:, None].double()
    scale = count / pixels
    bins = torch.arange(count, device=length.device)
    first, last = bins / scale, bins / scale + 1 / scale
    first = torch.where(first.ceil() - first > _LEAST, first, first.ceil())
    last = torch.where(last - last.floor() > _LEAST, last, last.floor())
    share = scale / ((last - first) * scale).clamp(min=1)
    low, high = first.floor(), last.floor()
    shrunk = torch.stack([low, low + 1, high, high + 1], 1)
    means = torch.stack([first - low - 1, low - first, high + 1 - last, last - high], 1) * share[:, None]
    middle = (bins + 0.5) / scale - 0.5
    near = middle.floor()
    weight = torch.where((near < 0) | (near >= pixels - 1), 1, near + 1 - middle)
    near = torch.minimum(near.clamp(min=0), pixels - 1)
    enlarged = torch.stack([near, near + 1, near + 1, near + 2], 1)
    values = torch.stack([-weight, weight, weight - 1, 1 - weight], 1)
    down = (pixels > count)[:, None]
    return torch.minimum(torch.where(down, shrunk, enlarged), pixels[:, None]).long(), torch.where(down, means, values)
