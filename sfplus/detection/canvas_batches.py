"""Batches of canvases of one shape, which the first network of MTCNN searches together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sfplus.detection.integral_images import group_by_size
from sfplus.detection.pyramid import Pyramid
from sfplus.images import Pixels


class CanvasBatch(NamedTuple):
    """One canvas of several photos of one size.

    Attributes:
        size: height and width of the photos, pixels.
        canvas: index of the canvas in their plan.
        photos: indices of the photos.
        batch_size: fixed size of the batch, which is filled up by repetition.
        pixels: of all canvases of the batch.
    """

    size: tuple[int, int]
    canvas: int
    photos: list[int]
    batch_size: int
    pixels: int


def canvas_batches(photos: Sequence[Pixels], pyramid: Pyramid, max_pixels: int) -> list[CanvasBatch]:
    """Group the canvases of photos of the same size.

    Args:
        photos: uint8 (H, W, 3) each.
        pyramid: lays out the canvases of each size.
        max_pixels: of a batch; a batch with more has a single canvas.
    """
    batches: list[CanvasBatch] = []
    for ids in group_by_size(photos):
        size = photos[ids[0]].shape[0], photos[ids[0]].shape[1]
        for index, (height, width, _) in enumerate(pyramid.plan(*size).canvases):
            count = max(1, max_pixels // (height * width))
            pixels = count * height * width
            batches += [CanvasBatch(size, index, ids[i : i + count], count, pixels) for i in range(0, len(ids), count)]
    return batches
