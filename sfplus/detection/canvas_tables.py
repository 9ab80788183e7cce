"""The look-up tables of a canvas, by NumPy for a CPU and by torch on a GPU: the same numbers.

On a CPU, torch takes 1.3 to 2 times as long as NumPy. A GPU needs no copy of 33 bytes per pixel from the host.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfplus.detection.pyramid_plan import EDGE, STRIDE, Plan

_Ints = npt.NDArray[np.int64]
Tables = tuple[Tensor, Tensor, Tensor]  # `Canvas.corners`, `Canvas.weight` and `Canvas.cells`


def tables_on_host(plan: Plan, index: int, height: int, width: int) -> Tables:
    """Compute the tables of canvas `index` for photos of a size, height x width."""
    canvas_height, canvas_width, pieces = plan.canvases[index]
    corners = np.zeros((2, canvas_height, 2, canvas_width), np.int32)
    weight = np.zeros((canvas_height, canvas_width, 4), np.float32)
    cells = np.full(_grid(canvas_height, canvas_width), -1, np.int32)
    levels, tops, lefts, heights, widths = np.array(pieces).T[:5]
    sides = np.array(plan.sides)[levels].T
    y, x = _bins(height, sides[0], tops, heights), _bins(width, sides[1], lefts, widths)  # of all pieces
    y_starts = y * (width + 1)
    # The bins of a level have its least height or one row more, so that the pixels of a column have two weights.
    least = -(-height // sides[0])
    is_higher = y[1] - y[0] > np.repeat(least, heights)
    bin_widths = np.repeat(128 * (x[1] - x[0]), 4).reshape(-1, 4)
    low, high = (1 / (bin_widths * np.repeat(least + more, widths)[:, None]).astype(np.float32) for more in (0, 1))
    row = column = 0
    for number, piece in enumerate(pieces):
        rows, columns = slice(row, row + piece.height), slice(column, column + piece.width)
        strip, part = slice(piece.y, piece.y + piece.height), slice(piece.x, piece.x + piece.width)
        np.add(y_starts[:, rows, None, None], x[:, columns], out=corners[:, strip, :, part])
        weight[strip, part] = low[columns]
        weight[strip, part][is_higher[rows]] = high[columns]
        cells[piece.cells] = number
        row, column = rows.stop, columns.stop
    return torch.from_numpy(corners), torch.from_numpy(weight).flatten(1), torch.from_numpy(cells)


def tables_on_device(plan: Plan, index: int, height: int, width: int, device: torch.device) -> Tables:
    """Compute the tables of `tables_on_host` on a device, without waiting for it."""
    canvas_height, canvas_width, pieces = plan.canvases[index]
    corners = torch.zeros(2, canvas_height, 2, canvas_width, dtype=torch.int32, device=device)
    weight = torch.zeros(canvas_height, canvas_width, dtype=torch.float32, device=device)
    cells = torch.full(_grid(canvas_height, canvas_width), -1, dtype=torch.int32, device=device)
    for number, piece in enumerate(pieces):
        level_height, level_width = plan.sides[piece.level]
        y = _bins_on_device(height, level_height, piece.top, piece.height, device)
        x = _bins_on_device(width, level_width, piece.left, piece.width, device)
        strip, part = slice(piece.y, piece.y + piece.height), slice(piece.x, piece.x + piece.width)
        corners[:, strip, :, part] = (y * (width + 1)).int()[:, :, None, None] + x.int()
        heights, widths = (y[1] - y[0]).double(), (x[1] - x[0]).double()
        weight[strip, part] = torch.outer(128 * heights, widths).reciprocal_()
        cells[piece.cells] = number
    return corners, weight.repeat_interleave(4, 1), cells


def _grid(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of cells of a canvas."""
    return (height - EDGE) // STRIDE, (width - EDGE) // STRIDE


def _bins(length: int, counts: _Ints, first: _Ints, number: _Ints) -> npt.NDArray[np.int32]:
    """Return low and high edges (2, N) of bins of adaptive average pooling, which may share pixels, for pieces.

    Args:
        length: of the photo, pixels.
        counts: (pieces,), the pixels of their levels.
        first: (pieces,), the first pixel of each in its level.
        number: (pieces,), the pixels of each, N in all.
    """
    counts = np.repeat(counts, number)
    starts = (np.arange(len(counts)) + np.repeat(first + number - number.cumsum(), number)) * length
    edges = np.empty((2, len(counts)), np.int32)
    edges[0] = starts // counts
    edges[1] = (starts + (length + counts - 1)) // counts
    return edges


def _bins_on_device(length: int, count: int, first: int, number: int, device: torch.device) -> Tensor:
    bins = _range(first, number, device)
    edges = torch.stack([bins * length, -(bins + 1) * length]).div_(count, rounding_mode="floor")
    edges[1].neg_()
    return edges


def _range(first: int, number: int, device: torch.device) -> Tensor:
    return torch.arange(first, first + number, device=device)
