"""The image pyramid of MTCNN on few canvases, and exact area means of rectangles of many photos at once.

Area means come from integral images (sums over all pixels above and to the left): the mean of a rectangle takes four
look-ups, whatever its size, so that the candidates of all photos are cut and resized in one operation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view

from sfplus.device import Device

CELL, STRIDE = 12, 2  # P-Net classifies cells of 12x12 pixels with stride 2
_EDGE = CELL - STRIDE  # pixels that n cells need beyond n strides
_CACHED_CANVASES = 8
_CANVAS_PIXELS = 1 << 17  # twice as many on a GPU; larger levels are cut into strips that overlap by _EDGE


class Piece(NamedTuple):
    """A level of the pyramid, or a strip of one, and its position on a canvas.

    Attributes:
        level: index of the level.
        top: first row of the level that the piece contains.
        height: pixels.
        width: pixels.
        y: row on the canvas, even.
        x: column on the canvas, even.
    """

    level: int
    top: int
    height: int
    width: int
    y: int
    x: int

    @property
    def cells(self) -> tuple[int, int]:
        """The rows and columns of P-Net's output (pooling rounds up, so that an odd last row counts)."""
        return (self.height - _EDGE + 1) // STRIDE, (self.width - _EDGE + 1) // STRIDE


class Plan(NamedTuple):
    """The layout of the pyramid for photos of one size.

    Attributes:
        sides: height and width of each level, pixels.
        scales: of the levels, relative to the photo.
        canvases: height, width and pieces of each canvas.
    """

    sides: list[tuple[int, int]]
    scales: list[float]
    canvases: list[tuple[int, int, list[Piece]]]


class Canvas(NamedTuple):
    """The look-up tables of one canvas, on the device.

    Attributes:
        height: h, pixels.
        width: w, pixels.
        corners: int32 (2, h, 2, w): rows of the photo's integral image, at the low and high edges (y, x) of the pixels.
        weight: float32 (h, w * 4): 1 / (128 * area) of that rectangle; the input of P-Net is (mean - 127.5) / 128.
        padding: rows and columns after the first convolution that must not leak into a piece of odd size.
        cells: int32 (4, h', w'): for each cell of P-Net its rank among all cells of the photo, its level, and its row
            and column in the level; -1 outside all pieces.
        pieces: the pieces on the canvas.
        sides: height and width of all levels, pixels.
        scales: of all levels, float64.
    """

    height: int
    width: int
    corners: torch.Tensor
    weight: torch.Tensor
    padding: list[tuple[slice, slice]]
    cells: torch.Tensor
    pieces: list[Piece]
    sides: list[tuple[int, int]]
    scales: torch.Tensor


def plan_pyramid(
    height: int, width: int, min_face: int, factor: float, matlab: bool = False, max_pixels: int = _CANVAS_PIXELS
) -> Plan:
    """Choose the levels, as facenet-pytorch or MATLAB does, and pack them onto canvases.

    Args:
        height: of the photo, pixels.
        width: of the photo, pixels.
        min_face: side of the smallest face, pixels.
        factor: scale of each level relative to the previous one.
        matlab: round the sides of the levels as MATLAB does.
        max_pixels: of a canvas.
    """
    scales, scale, side = [], CELL / min_face, min(height, width) * (CELL / min_face)
    while side >= CELL:
        scales.append(scale)
        scale, side = scale * factor, side * factor
    if matlab:
        scales = [CELL / min_face * factor**level for level in range(len(scales))]
        sides = [(math.ceil(height * scale), math.ceil(width * scale)) for scale in scales]
    else:
        sides = [(int(height * scale + 1), int(width * scale + 1)) for scale in scales]
    pieces = [piece for level, size in enumerate(sides) for piece in _strips(level, *size, max_pixels)]
    pieces.sort(key=lambda piece: (-piece.height, piece.level, piece.top))
    if not pieces:
        return Plan([], [], [])
    widest = max(piece.width for piece in pieces)
    packings = [_pack(pieces, widest * stretch // 8, max_pixels) for stretch in range(8, 17)]
    return Plan(sides, scales, min(packings, key=lambda canvases: sum(h * w for h, w, _ in canvases)))


def _strips(level: int, height: int, width: int, max_pixels: int) -> Iterator[Piece]:
    rows = max(1, (max_pixels // width - _EDGE) // STRIDE)  # cells a strip may have
    cells = (height - _EDGE + 1) // STRIDE
    for first in range(0, cells, rows):
        top = first * STRIDE
        last = first + rows >= cells
        yield Piece(level, top, height - top if last else rows * STRIDE + _EDGE, width, 0, 0)


def _pack(pieces: Sequence[Piece], width: int, max_pixels: int) -> list[tuple[int, int, list[Piece]]]:
    """Place each piece, highest first, as far up as it fits; a new canvas starts when the last is full."""
    width += width % 2
    canvases: list[tuple[int, list[Piece]]] = []
    used = np.zeros(width // 2, np.int64)  # rows of the last canvas in use, for each pair of columns
    for piece in pieces:
        height, columns = piece.height + piece.height % 2, (piece.width + 1) // 2
        tops = sliding_window_view(used, columns).max(1)
        x = int(tops.argmin())
        y = int(tops[x])
        if not canvases or (y + height) * width > max(max_pixels, height * width):
            canvases.append((0, []))
            used[:], x, y = 0, 0, 0
        used[x : x + columns] = y + height
        canvases[-1] = (int(used.max()), [*canvases[-1][1], piece._replace(y=y, x=2 * x)])
    return [(height, width, placed) for height, placed in canvases]


def build_canvas(plan: Plan, index: int, height: int, width: int, device: Device) -> Canvas:
    """Compute the look-up tables of canvas `index` for photos of a size, height x width."""
    canvas_height, canvas_width, pieces = plan.canvases[index]
    corners = np.zeros((2, canvas_height, 2, canvas_width), np.int32)
    weight = np.zeros((canvas_height, canvas_width), np.float32)
    cells = np.full((4, (canvas_height - _EDGE) // 2, (canvas_width - _EDGE) // 2), -1, np.int32)
    padding = []
    for piece in pieces:
        level_height, level_width = plan.sides[piece.level]
        y = _bins(height, level_height, piece.top, piece.height)
        x = _bins(width, level_width, 0, piece.width)
        area = np.s_[piece.y : piece.y + piece.height, :, piece.x : piece.x + piece.width]
        corners[:, *area] = y[:, :, None, None] * (width + 1) + x
        weight[area[::2]] = 1 / (128 * (y[1] - y[0])[:, None] * (x[1] - x[0]))
        rows, columns = piece.cells
        block = cells[:, piece.y // 2 : piece.y // 2 + rows, piece.x // 2 : piece.x // 2 + columns]
        block[1] = piece.level
        block[2] = np.arange(rows)[:, None] + piece.top // STRIDE
        block[3] = np.arange(columns)
        block[0] = sum(h * w for h, w in plan.sides[: piece.level]) + block[2] * level_width + block[3]
        last_y, last_x = piece.y + piece.height - 2, piece.x + piece.width - 2
        if piece.height % 2:
            padding.append(np.s_[last_y : last_y + 1, piece.x : last_x + 1])
        if piece.width % 2:
            padding.append(np.s_[piece.y : last_y + 1, last_x : last_x + 1])
    tables = [device.put(torch.from_numpy(a)) for a in (corners, weight.repeat(4, 1), cells)]
    scales = device.put(torch.tensor(plan.scales, dtype=torch.float64))
    return Canvas(canvas_height, canvas_width, tables[0], tables[1], padding, tables[2], pieces, plan.sides, scales)


def _bins(length: int, count: int, first: int, number: int) -> npt.NDArray[np.int64]:
    """Return low and high edges (2, number) of bins of adaptive average pooling, which may share pixels."""
    bins = np.arange(first, first + number)
    return np.stack([bins * length // count, -(-(bins + 1) * length // count)])


class IntegralImages:
    """The integral images of photos of any sizes, one after the other.

    Args:
        photos: uint8 (H, W, 3) each.
        device: the device of the sums.
        squeeze: cut candidates that reach beyond their photo at its border, as facenet-pytorch does; otherwise the part
            outside is black, as with the original's pad.m, so that faces at the border keep their shape.
    """

    sum_type: ClassVar[tuple[int, Any]] = (cv2.CV_32S, "int32")

    def __init__(self, photos: Sequence[npt.NDArray[np.uint8]], device: Device, squeeze: bool = False) -> None:
        sizes = np.array([photo.shape[:2] for photo in photos], np.int32).reshape(-1, 2)
        starts = np.concatenate([[0], np.cumsum((sizes + 1).prod(1))]).astype(np.int32)
        sums = np.empty((starts[-1], 4), self.sum_type[1])
        for photo, start, end in zip(photos, starts[:-1], starts[1:], strict=True):
            # 32 bits overflow in large photos, but differences over fewer than 2^23 pixels are still right.
            cv2.integral(
                cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA),
                sums[start:end].reshape(photo.shape[0] + 1, -1, 4),
                sdepth=self.sum_type[0],
            )
        self._sums = device.put(torch.from_numpy(sums))
        self._starts = device.put(torch.from_numpy(starts[:-1]))
        self._sizes = device.put(torch.from_numpy(sizes))
        self._squeeze = squeeze
        self._offset = torch.tensor(-127.5 / 128, dtype=torch.float32, device=device.torch)

    def draw_canvas(self, photo_ids: torch.Tensor, canvas: Canvas) -> torch.Tensor:
        """Draw a canvas for each of B photos of its size: float32 (B, 4, h, w), channels_last; channel 4 is unused."""
        return self._area_means(canvas.corners + self._starts[photo_ids, None, None, None, None], canvas.weight)

    def _area_means(self, corners: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Compute normalised means of rectangles.

        Args:
            corners: (N, 2, H, 2, W), rows of the sums, low and high in y and x.
            weight: (N, H, W * 4) or (H, W * 4).

        Returns:
            float32 (N, 4, H, W), channels_last.
        """
        count, _, height, _, width = corners.shape
        pixels = self._sums.view(torch.complex128)[:, 0]  # 16 bytes, moved as one
        sums = pixels.index_select(0, corners.flatten()).view(torch.int32).view(count, 2, height, 2, width * 4)
        rows = sums[:, 1].sub_(sums[:, 0])
        means = torch.addcmul(self._offset, rows[:, :, 1].sub_(rows[:, :, 0]).float(), weight)
        return means.view(count, height, width, 4).permute(0, 3, 1, 2)

    def regions(self, photo_ids: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Convert boxes to the regions to cut.

        Args:
            photo_ids: int64 (N,), the photo of each box.
            boxes: (N, 4), counted from 1 and inclusive.

        Returns:
            int64 (N, 4): left, top, right, bottom, counted from 0, the last two exclusive; all 0 if the box is outside
            the photo.
        """
        first, last = boxes[:, :2].floor().long() - 1, boxes[:, 2:4].floor().long()
        inside_first, inside_last = first.clamp(min=0), torch.minimum(last, self._sizes[photo_ids].flip(1))
        inside = (inside_last > inside_first).all(1, keepdim=True)
        return torch.where(inside, torch.cat([inside_first, inside_last] if self._squeeze else [first, last], 1), 0)

    def crop_and_resize(
        self, photo_ids: torch.Tensor, regions: torch.Tensor, side: int, mirrored: bool = False
    ) -> torch.Tensor:
        """Cut regions, black beyond the photo, and resize them by area: float32 (N, 4, side, side)."""
        regions = regions.int()
        first, length = regions[:, :2, None, None], (regions[:, 2:] - regions[:, :2])[:, :, None, None]
        bins = torch.arange(side, device=regions.device, dtype=torch.int32)
        edges = torch.cat([bins * length // side, ((bins + 1) * length + side - 1) // side], 2) + first
        if mirrored:
            edges[:, 0] = edges[:, 0].flip(2)
        # (N, 2, side): low and high edges of the bins; beyond the photo the integral keeps its value at the border.
        x, y = torch.minimum(edges.clamp(min=0), self._sizes[photo_ids].flip(1)[:, :, None, None]).unbind(1)
        rows = self._starts[photo_ids, None, None] + y * (self._sizes[photo_ids, 1, None, None] + 1)
        widths, heights = (edges[:, :, 1] - edges[:, :, 0]).float().unbind(1)
        weight = 1 / (128 * heights[:, :, None] * widths.repeat_interleave(4, 1)[:, None])
        return self._area_means(rows[:, :, :, None, None] + x[:, None, None], weight)


class Pyramid:
    """Plans and canvases for photos of any size, of which the latest are cached.

    Args:
        min_face: side of the smallest face, pixels.
        factor: scale of each level relative to the previous one.
        device: the device of the canvases.
        matlab: round the sides of the levels as MATLAB does.
    """

    def __init__(self, min_face: int, factor: float, device: Device, matlab: bool = False) -> None:
        self.plan: Callable[[int, int], Plan]
        max_pixels = _CANVAS_PIXELS << device.is_cuda
        self.plan = functools.lru_cache(64)(lambda h, w: plan_pyramid(h, w, min_face, factor, matlab, max_pixels))
        self._build = functools.lru_cache(_CACHED_CANVASES)(
            lambda h, w, index: build_canvas(self.plan(h, w), index, h, w, device)
        )

    def canvas(self, height: int, width: int, index: int) -> Canvas:
        """Return canvas `index` of the plan for photos of this size."""
        if len(self.plan(height, width).canvases) > _CACHED_CANVASES:  # each would be evicted before its next use
            return self._build.__wrapped__(height, width, index)
        return self._build(height, width, index)
