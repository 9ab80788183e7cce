"""The sums of `MatlabIntegralImages` for photos that are too large for the integral images of all their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfplus.detection.imresample import MatlabIntegralImages
from sfplus.device import Device
from sfplus.images import Pixels

_STEP = 64  # pixels between the rows and the columns that are kept
Sums = npt.NDArray[np.float64]


class BandedMatlabIntegralImages(MatlabIntegralImages):
    """The integral images of `MatlabIntegralImages`, of which every 64th row and column is kept: 1 byte per pixel.

    The others are computed from these when they are looked up, on the host. Sums are whole numbers, which float64 holds
    exactly, so that they are the same, bit by bit.

    Args:
        photos: uint8 (H, W, 3) each.
        device: the CPU.
        squeeze: as in `IntegralImages`.
    """

    def __init__(self, photos: Sequence[Pixels], device: Device, squeeze: bool = False) -> None:
        self._photos = photos
        self._describe(photos, device, squeeze)
        self._kept = [_sum_of_grid(photo) for photo in photos]

    def _look_up(self, photo_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        count, shape = len(photo_ids), (*rows.shape[1:], *columns.shape[1:], 4)
        sums = torch.empty(count, *shape, dtype=torch.float64, device="cpu")
        y, x = (lines.expand(count, -1, -1).reshape(count, -1).numpy() for lines in (rows, columns))
        flat = sums.numpy().reshape(count, y.shape[1], x.shape[1], 4)
        for index, photo_id in enumerate(photo_ids.tolist()):
            self._fill(flat[index], photo_id, y[index], x[index])
        return sums

    def _fill(self, sums: Sums, photo_id: int, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> None:
        """Write the sums at rows y and columns x of a photo to (len(y), len(x), 4)."""
        photo, (kept_rows, kept_columns) = self._photos[photo_id], self._kept[photo_id]
        first = int(x.min()) // _STEP
        left, right = first * _STEP, int(x.max())
        bands = y // _STEP
        for band in np.unique(bands).tolist():
            chosen = np.flatnonzero(bands == band)
            top, bottom = band * _STEP, int(y[chosen].max())
            block = _sum(photo[top:bottom, left:right])
            block += kept_rows[band, left : right + 1]
            block += (kept_columns[top : bottom + 1, first] - kept_rows[band, left])[:, None]
            sums[chosen] = block[(y[chosen] - top)[:, None], x - left]


def _sum_of_grid(photo: Pixels) -> tuple[Sums, Sums]:
    """Return every 64th row and every 64th column of the integral image of a photo: (h, W + 1, 4) and (H + 1, w, 4)."""
    height, width = photo.shape[:2]
    rows = np.zeros((height // _STEP + 1, width + 1, 4))
    columns = np.empty((height + 1, width // _STEP + 1, 4))
    for band in range(len(rows)):
        top = band * _STEP
        block = _sum(photo[top : top + _STEP])
        block += rows[band]
        columns[top : top + len(block)] = block[:, ::_STEP]
        if band + 1 < len(rows):
            rows[band + 1] = block[_STEP]
    return rows, columns


def _sum(pixels: Pixels) -> Sums:
    """Return the integral image of pixels, float64 (H + 1, W + 1, 4): the sums of red, green, blue and 255."""
    height, width = pixels.shape[:2]
    if not height or not width:
        return np.zeros((height + 1, width + 1, 4))
    return np.asarray(cv2.integral(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), sdepth=cv2.CV_64F))
