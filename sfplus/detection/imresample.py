"""Image resizing as in the original MATLAB cascade: imResample(..., 'bilinear') of Dollar's toolbox, and pad.m.

When shrinking, imResample takes means over areas whose edges lie between pixels; when enlarging, it interpolates
linearly. Both are weighted sums of four values of the integral image along each axis. Beyond the photo the integral
keeps its value at the border, so that pixels there count as 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sfplus.detection.integral_images import IntegralImages
from sfplus.detection.pyramid import Canvas

_MIN_OVERLAP = 1e-3  # of a pixel; imResampleMex.cpp ignores less


class MatlabIntegralImages(IntegralImages):
    """Integral images in float64, 32 bytes per pixel, that are resized as by the original."""

    sum_type: ClassVar[torch.dtype] = torch.float64

    def draw_canvas(self, photo_ids: Tensor, canvas: Canvas) -> Tensor:
        """Draw a canvas for each of B photos of its size: float32 (B, 4, h, w), channels_last; channel 4 is unused."""
        pixels = torch.zeros(
            len(photo_ids), canvas.height, canvas.width, 4, dtype=torch.float32, device=photo_ids.device
        )
        size = self._sizes[photo_ids[:1]]
        for piece in canvas.pieces:
            height, width = canvas.sides[piece.level]
            (rows, row_weights), (columns, column_weights) = _taps(size[:, 0], height), _taps(size[:, 1], width)
            down, across = slice(piece.top, piece.top + piece.height), slice(piece.left, piece.left + piece.width)
            pixels[:, piece.y : piece.y + piece.height, piece.x : piece.x + piece.width] = self._sample(
                photo_ids,
                rows[:, :, down],
                row_weights[:, :, down],
                columns[:, :, across],
                column_weights[:, :, across],
            )
        return pixels.permute(0, 3, 1, 2)

    def crop_and_resize(self, photo_ids: Tensor, regions: Tensor, side: int, mirrored: bool = False) -> Tensor:
        """Cut regions of photos, black beyond the photo, and resize them: float32 (N, 4, side, side)."""
        columns, column_weights = _taps(regions[:, 2] - regions[:, 0], side)
        rows, row_weights = _taps(regions[:, 3] - regions[:, 1], side)
        rows, columns = rows + regions[:, 1, None, None], columns + regions[:, 0, None, None]
        pixels = self._sample(photo_ids, rows, row_weights, columns, column_weights)
        pixels = (pixels.flip(2) if mirrored else pixels).permute(0, 3, 1, 2)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _sample(
        self, photo_ids: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor
    ) -> Tensor:
        """Sum looked-up values (rows and columns (N or 1, 4, side), with weights): float32 (N, height, width, 4)."""
        height, width = self._sizes[photo_ids].unbind(1)
        rows = torch.minimum(rows.clamp(min=0), height[:, None, None])
        columns = torch.minimum(columns.clamp(min=0), width[:, None, None])
        sums = self._look_up(photo_ids, rows, columns)
        row_sums = (sums * row_weights[:, :, :, None, None, None]).sum(1)
        means = (row_sums * column_weights[:, None, :, :, None]).sum(2)
        return ((means - 127.5) / 128).float()

    def _look_up(self, photo_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the sums at rows and columns (N or 1, 4, side) of photos: float64 (N, 4, height, 4, width, 4)."""
        rows = rows * (self._sizes[photo_ids, 1, None, None] + 1) + self._starts[photo_ids, None, None]
        indices = rows[:, :, :, None, None] + columns[:, None, None]
        return self._sums.index_select(0, indices.flatten()).view(*indices.shape, 4)


def _taps(length: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute the four positions of the integral along an axis, and their weights (imResampleMex.cpp, resampleCoef).

    Args:
        length: int (N,), pixels before resizing.
        count: pixels after resizing.

    Returns:
        Positions, int64 (N, 4, count), and weights, float64 (N, 4, count).
    """
    pixels = length[:, None].double()
    scale = count / pixels
    bins = torch.arange(count, device=length.device)
    first, last = bins / scale, bins / scale + 1 / scale
    first = torch.where(first.ceil() - first > _MIN_OVERLAP, first, first.ceil())
    last = torch.where(last - last.floor() > _MIN_OVERLAP, last, last.floor())
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
    shrinks = (pixels > count)[:, None]
    positions = torch.minimum(torch.where(shrinks, shrunk, enlarged), pixels[:, None]).long()
    return positions, torch.where(shrinks, means, values)
