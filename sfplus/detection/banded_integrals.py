"""Exact area means of rectangles of photos that are too large for integral images of all their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfplus.detection.integral_images import IntegralImages, area_means
from sfplus.detection.pyramid import Canvas
from sfplus.device import Device
from sfplus.images import Pixels

_PART = 1 << 17  # pixels of a photo that are summed at a time, 16 bytes each, which stay in the cache


class BandedIntegralImages(IntegralImages):
    """Integral images of a part of a photo at a time, on the host: the means are those of `IntegralImages`, bit by bit.

    Sums over rectangles are differences of whole numbers, whichever pixel the sums start from. The photos themselves
    are kept, 3 bytes per pixel, and not 16 bytes per pixel of sums.

    Args:
        photos: uint8 (H, W, 3) each.
        device: the CPU.
        squeeze: as in `IntegralImages`.
    """

    def __init__(self, photos: Sequence[Pixels], device: Device, squeeze: bool = False) -> None:
        self._photos = photos
        self._describe(photos, device, squeeze)

    def draw_canvas(self, photo_ids: Tensor, canvas: Canvas) -> Tensor:
        """Draw a canvas for each of B photos of its size: float32 (B, 4, h, w), channels_last; channel 4 is unused."""
        pixels = self._offset.repeat(len(photo_ids), canvas.height, canvas.width, 4)
        weight = canvas.weight.view(canvas.height, canvas.width, 4)
        for piece in canvas.pieces:
            rows, columns = slice(piece.y, piece.y + piece.height), slice(piece.x, piece.x + piece.width)
            corners = canvas.corners[:, rows, :, columns] + self._starts[photo_ids, None, None, None, None]
            means = self._area_means(corners, weight[rows, columns].flatten(1))
            pixels[:, rows, columns] = means.permute(0, 2, 3, 1)
        return pixels.permute(0, 3, 1, 2)

    def _area_means(self, corners: Tensor, weight: Tensor) -> Tensor:
        """Compute normalised means of rectangles, which have the same columns in all rows (see `area_means`)."""
        count, _, height, _, width = corners.shape
        weights = weight.view(-1, height, width, 4).expand(count, -1, -1, -1)
        means = torch.empty(count, height, width, 4, dtype=torch.float32, device=corners.device)
        starts = self._starts.numpy()
        order = starts.argsort()
        for index, rectangles in enumerate(corners.numpy()):
            photo_id = order[np.searchsorted(starts[order], rectangles[0, 0, 0, 0], "right") - 1]
            photo = self._photos[photo_id]
            stride = photo.shape[1] + 1
            y = (rectangles[:, :, 0, 0] - starts[photo_id]) // stride
            x = rectangles[0, 0] - starts[photo_id] - y[0, 0] * stride
            for rows, columns in _parts(y, x):
                top, bottom = int(y[0, rows].min()), int(y[1, rows].max())
                left, right = int(x[0, columns].min()), int(x[1, columns].max())
                sums = _sum(photo[top:bottom, left:right])
                part = (y[:, rows] - top)[:, :, None, None] * (right - left + 1) + (x[:, columns] - left)
                part_weights = weights[index, rows, columns].flatten(1)
                means[index, rows, columns] = area_means(
                    sums, torch.from_numpy(part)[None], part_weights, self._offset
                )[0]
        return means.permute(0, 3, 1, 2)


def _parts(y: npt.NDArray[np.int32], x: npt.NDArray[np.int32]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and the columns of rectangles that lie in a part of at most `_PART` pixels, or are very large.

    Args:
        y: (2, H), the top and the bottom of the rectangles of each row, which grow from row to row.
        x: (2, W), the left and the right of the rectangles of each column, which grow or shrink from column to column.
    """
    width = max(1, int(x.max() - x.min()))
    first = 0
    while first < y.shape[1]:
        last = int(np.searchsorted(y[1], y[0, first] + max(1, _PART // width), "right"))
        last = max(last, first + 1)
        count = -(-width * int(y[1, last - 1] - y[0, first]) // _PART)  # above 1 only where a row is too large
        step = -(-x.shape[1] // max(1, count))
        for column in range(0, x.shape[1], step):
            yield slice(first, last), slice(column, column + step)
        first = last


def _sum(pixels: Pixels) -> Tensor:
    """Compute the integral image of pixels: int32 (S, 4), the sums of red, green, blue and 255."""
    height, width = pixels.shape[:2]
    sums = torch.empty((height + 1) * (width + 1), 4, dtype=torch.int32, device="cpu")
    if not height or not width:
        return sums.zero_()
    block = sums.numpy().reshape(height + 1, width + 1, 4)
    cv2.integral(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), block, sdepth=cv2.CV_32S)
    return sums
