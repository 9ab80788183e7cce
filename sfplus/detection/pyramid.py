"""The image pyramid of MTCNN as look-up tables, which are kept for the next photos of a size."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfplus.detection.canvas_tables import tables_on_device, tables_on_host
from sfplus.detection.pyramid_plan import EDGE, STRIDE, Piece, Plan, plan_pyramid
from sfplus.detection.sizes import Sizes
from sfplus.device import Device
from sfplus.io.threads import fork_safe_lock

_lock = fork_safe_lock()  # of the kept canvases of all pyramids


class Canvas(NamedTuple):
    """The look-up tables of one canvas, on the device.

    Attributes:
        height: h, pixels.
        width: w, pixels.
        corners: int32 (2, h, 2, w): rows of the photo's integral image, at the low and high edges (y, x) of the pixels.
        weight: float32 (h, w * 4): 1 / (128 * area) of that rectangle; the input of P-Net is (mean - 127.5) / 128.
        padding: rows and columns after the first convolution that must not leak into a piece of odd size.
        cells: int32 (h', w'): for each cell of P-Net the index of its piece; -1 outside all pieces.
        places: int64 (pieces, 5): for each piece its level, its first row and column of cells in the level minus those
            on the canvas, the number of cells before its level that rank first, and how many rank first for each row.
        pieces: the pieces on the canvas.
        sides: height and width of all levels, pixels.
        scales: of all levels, float64.
    """

    height: int
    width: int
    corners: Tensor
    weight: Tensor
    padding: list[tuple[slice, slice]]
    cells: Tensor
    places: Tensor
    pieces: list[Piece]
    sides: list[tuple[int, int]]
    scales: Tensor


def build_canvas(plan: Plan, index: int, height: int, width: int, device: Device) -> Canvas:
    """Compute the look-up tables of canvas `index` for photos of a size, height x width, on the device."""
    canvas_height, canvas_width, pieces = plan.canvases[index]
    if device.is_cuda:
        corners, weight, cells = tables_on_device(plan, index, height, width, device.torch)
    else:
        corners, weight, cells = tables_on_host(plan, index, height, width)
    padding = []
    for piece in pieces:
        last_y, last_x = piece.y + piece.height - 2, piece.x + piece.width - 2
        if piece.height % 2:
            padding.append((slice(last_y, last_y + 1), slice(piece.x, last_x + 1)))
        if piece.width % 2:
            padding.append((slice(piece.y, last_y + 1), slice(last_x, last_x + 1)))
    ranks = [0, *itertools.accumulate(rows * columns for rows, columns in plan.sides)]
    places = [
        (p.level, (p.top - p.y) // STRIDE, (p.left - p.x) // STRIDE, ranks[p.level], plan.sides[p.level][1])
        for p in pieces
    ]
    return Canvas(
        canvas_height,
        canvas_width,
        corners,
        weight,
        padding,
        cells,
        device.put(torch.from_numpy(np.array(places, np.int64))),
        pieces,
        plan.sides,
        device.put(torch.from_numpy(np.array(plan.scales))),
    )


def _table_bytes(plan: Plan) -> int:
    """Return the size of the tables of all canvases of a plan: 32 bytes per pixel, and 4 per cell."""
    return sum(32 * h * w + 4 * ((h - EDGE) // STRIDE) * ((w - EDGE) // STRIDE) for h, w, _ in plan.canvases)


class Pyramid:
    """Plans and canvases for photos of any size, of which the latest are kept; several threads may use them.

    Args:
        min_face: side of the smallest face, pixels.
        factor: scale of each level relative to the previous one.
        device: the device of the canvases.
        sizes: the pixels of a canvas, and the bytes of tables that are kept.
        matlab: round the sides of the levels as MATLAB does.
    """

    def __init__(self, min_face: int, factor: float, device: Device, sizes: Sizes, matlab: bool = False) -> None:
        self.plan: Callable[[int, int], Plan] = functools.lru_cache(64)(
            lambda height, width: plan_pyramid(height, width, min_face, factor, matlab, sizes.canvas)
        )
        self._device = device
        self._limit = sizes.tables
        self._kept: OrderedDict[tuple[int, int, int], Canvas] = OrderedDict()
        self._bytes = 0

    def canvas(self, height: int, width: int, index: int) -> Canvas:
        """Return canvas `index` of the plan for photos of this size."""
        key = height, width, index
        with _lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        plan = self.plan(height, width)
        canvas = build_canvas(plan, index, height, width, self._device)
        if _table_bytes(plan) <= self._limit:  # else each would be dropped before its next use
            self._keep(key, canvas)
        return canvas

    def _keep(self, key: tuple[int, int, int], canvas: Canvas) -> None:
        with _lock:
            if key not in self._kept:  # by another thread
                self._kept[key] = canvas
                self._bytes += _count_bytes(canvas)
            while self._bytes > self._limit:
                self._bytes -= _count_bytes(self._kept.popitem(last=False)[1])


def _count_bytes(canvas: Canvas) -> int:
    return canvas.corners.nbytes + canvas.weight.nbytes + canvas.cells.nbytes
