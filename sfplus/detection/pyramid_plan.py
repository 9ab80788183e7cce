"""The levels of MTCNN's image pyramid, packed onto few canvases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

CELL, STRIDE = 12, 2  # P-Net classifies cells of 12x12 pixels with stride 2
EDGE = CELL - STRIDE  # pixels that n cells need beyond n strides

Skyline = list[tuple[int, int]]
"""The rows of a canvas that are in use, from left to right: the first column of each step, in pairs, and its rows."""


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
        return (self.height - EDGE + 1) // STRIDE, (self.width - EDGE + 1) // STRIDE


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


def plan_pyramid(
    height: int, width: int, min_face: int, factor: float, matlab: bool = False, max_pixels: int = 1 << 17
) -> Plan:
    """Choose the levels, as facenet-pytorch or MATLAB does, and pack them onto canvases.

    Args:
        height: of the photo, pixels.
        width: of the photo, pixels.
        min_face: side of the smallest face, pixels.
        factor: scale of each level relative to the previous one.
        matlab: round the sides of the levels as MATLAB does.
        max_pixels: of a canvas; larger levels are cut into strips that overlap by `EDGE`.
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
    rows = max(1, (max_pixels // width - EDGE) // STRIDE)  # cells a strip may have
    cells = (height - EDGE + 1) // STRIDE
    for first in range(0, cells, rows):
        top = first * STRIDE
        last = first + rows >= cells
        yield Piece(level, top, height - top if last else rows * STRIDE + EDGE, width, 0, 0)


def _pack(pieces: Sequence[Piece], width: int, max_pixels: int) -> list[tuple[int, int, list[Piece]]]:
    """Place each piece, highest first, as far up as it fits; a new canvas starts when the last is full."""
    width += width % 2
    canvases: list[tuple[int, int, list[Piece]]] = []
    skyline: Skyline = []
    for piece in pieces:
        height, columns = piece.height + piece.height % 2, (piece.width + 1) // 2
        y, x = _find_place(skyline, columns, width // 2)
        if not canvases or (y + height) * width > max(max_pixels, height * width):
            canvases.append((0, width, []))
            skyline, y, x = [(0, 0)], 0, 0
        skyline = _raise_skyline(skyline, x, x + columns, y + height, width // 2)
        rows, _, placed = canvases[-1]
        placed.append(piece._replace(y=y, x=2 * x))
        canvases[-1] = max(rows, y + height), width, placed
    return canvases


def _find_place(skyline: Skyline, columns: int, width: int) -> tuple[int, int]:
    """Return the row and column of the place for a piece that is highest and then leftmost, which follows a step."""
    best: tuple[int, int] | None = None
    for index, (x, rows) in enumerate(skyline):
        if x + columns > width:
            break
        for first, others in skyline[index + 1 :]:
            if first >= x + columns:
                break
            rows = max(rows, others)
        best = min(best or (rows, x), (rows, x))
    return best or (0, 0)


def _raise_skyline(skyline: Skyline, first: int, end: int, rows: int, width: int) -> Skyline:
    """Return the skyline with `rows` rows in use from column `first` to `end`."""
    left = [step for step in skyline if step[0] < first]
    covered = [step for step in skyline if step[0] <= end]
    right = [step for step in skyline if step[0] > end]
    rest = [(end, covered[-1][1])] if end < width else []
    return [*left, (first, rows), *rest, *right]
