"""The levels of MTCNN's image pyramid, packed onto few canvases."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

CELL, STRIDE = 12, 2  # P-Net classifies cells of 12x12 pixels with stride 2
EDGE = CELL - STRIDE  # pixels that n cells need beyond n strides
_ALONE = 1 / 4  # of a canvas: a piece with more pixels has a canvas of its own size, on which nothing stays empty

Layout = list[tuple[int, int, list["Piece"]]]
"""The height, the width and the pieces of each canvas."""
Skyline = list[tuple[int, int]]
"""The rows of a canvas that are in use, from left to right: the first column of each step, in pairs, and its rows."""


class Piece(NamedTuple):
    """A level of the pyramid, or a tile of one, and its position on a canvas.

    Attributes:
        level: index of the level.
        top: first row of the level that the piece contains.
        left: first column of the level that it contains.
        height: pixels.
        width: pixels.
        y: row on the canvas, even.
        x: column on the canvas, even.
    """

    level: int
    top: int
    left: int
    height: int
    width: int
    y: int
    x: int

    @property
    def cells(self) -> tuple[slice, slice]:
        """The rows and columns of P-Net's output on the canvas (pooling rounds up, so that an odd last row counts)."""
        rows, columns = (self.height - EDGE + 1) // STRIDE, (self.width - EDGE + 1) // STRIDE
        y, x = self.y // STRIDE, self.x // STRIDE
        return slice(y, y + rows), slice(x, x + columns)


class Plan(NamedTuple):
    """The layout of the pyramid for photos of one size.

    Attributes:
        sides: height and width of each level, pixels.
        scales: of the levels, relative to the photo.
        canvases: height, width and pieces of each canvas.
    """

    sides: list[tuple[int, int]]
    scales: list[float]
    canvases: Layout


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
        max_pixels: of a canvas; larger levels are cut into tiles that overlap by `EDGE`.
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
    pieces = [piece for level, size in enumerate(sides) for piece in _tiles(level, *size, max_pixels)]
    alone = [piece for piece in pieces if piece.height * piece.width > _ALONE * max_pixels]
    canvases = [(piece.height + piece.height % 2, piece.width + piece.width % 2, [piece]) for piece in alone]
    shared = [piece for piece in pieces if piece.height * piece.width <= _ALONE * max_pixels]
    shared.sort(key=lambda piece: (-piece.height, piece.level, piece.top, piece.left))
    if shared:
        widest = max(piece.width for piece in shared)
        best: Layout = []
        pixels = math.inf
        for stretch in range(8, 17):
            if packed := _pack(shared, widest * stretch // 8, max_pixels, pixels):
                best, pixels = packed, sum(h * w for h, w, _ in packed)
        canvases += best
    return Plan(sides, scales, canvases)


def _tiles(level: int, height: int, width: int, max_pixels: int) -> Iterator[Piece]:
    """Cut a level that is larger than a canvas into tiles, all of one size but the last ones, with few pixels."""
    rows, columns = (height - EDGE + 1) // STRIDE, (width - EDGE + 1) // STRIDE  # cells

    def pixels(tile: tuple[int, int]) -> int:
        height, width = tile
        return -(-rows // height) * (height * STRIDE + EDGE) * -(-columns // width) * (width * STRIDE + EDGE)

    def tile(across: int) -> tuple[int, int]:
        """Return the rows and columns of cells of tiles of which so many are beside one another."""
        part = -(-columns // across)
        down = -(-rows // max(1, (max_pixels // (part * STRIDE + EDGE) - EDGE) // STRIDE))
        return -(-rows // down), part

    tile_rows, tile_columns = rows, columns
    if height * width > max_pixels:
        tile_rows, tile_columns = min(map(tile, range(1, width // math.isqrt(max_pixels) + 2)), key=pixels)
    for top in range(0, rows, tile_rows):
        for left in range(0, columns, tile_columns):
            yield Piece(
                level,
                top * STRIDE,
                left * STRIDE,
                height - top * STRIDE if top + tile_rows >= rows else tile_rows * STRIDE + EDGE,
                width - left * STRIDE if left + tile_columns >= columns else tile_columns * STRIDE + EDGE,
                0,
                0,
            )


def _pack(pieces: Sequence[Piece], width: int, max_pixels: int, fewer: float) -> Layout | None:
    """Place each piece, highest first, as far up as it fits; a new canvas starts when the last is full.

    Returns:
        The canvases; None as soon as they have `fewer` pixels or more.
    """
    width += width % 2
    canvases: Layout = []
    skyline: Skyline = []
    for piece in pieces:
        height, columns = piece.height + piece.height % 2, (piece.width + 1) // 2
        y, x = _find_place(skyline, columns, width // 2)
        if not canvases or (y + height) * width > max(max_pixels, height * width):
            canvases.append((0, width, []))
            skyline, y, x = [(0, 0)], 0, 0
        _raise_skyline(skyline, x, x + columns, y + height, width // 2)
        rows, _, placed = canvases[-1]
        placed.append(Piece(*piece[:5], y, 2 * x))
        canvases[-1] = max(rows, y + height), width, placed
        if sum(rows for rows, _, _ in canvases) * width >= fewer:
            return None
    return canvases


def _find_place(skyline: Skyline, columns: int, width: int) -> tuple[int, int]:
    """Return the row and column of the place for a piece that is highest and then leftmost, which follows a step."""
    best: tuple[int, int] | None = None
    for index, (x, rows) in enumerate(skyline):
        if x + columns > width:
            break
        for first, edge in skyline[index + 1 :]:
            if first >= x + columns:
                break
            rows = max(rows, edge)
        if not best or rows < best[0]:
            best = rows, x
    return best or (0, 0)


def _raise_skyline(skyline: Skyline, first: int, end: int, rows: int, width: int) -> None:
    """Put `rows` rows in use from column `first` to `end`, in place."""
    start, stop = bisect.bisect_left(skyline, (first,)), bisect.bisect_left(skyline, (end + 1,))
    rest = [(end, skyline[stop - 1][1])] if end < width else []
    skyline[start:stop] = [(first, rows), *rest]
