"""Exact area means of rectangles of many photos at once.

They come from integral images (sums over all pixels above and to the left): the mean of a rectangle takes four
look-ups, whatever its size, so that the candidates of all photos are cut and resized in one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfplus.detection.pyramid import Canvas
from sfplus.device import Device
from sfplus.images import Pixels

# The row of the sums at which each photo starts, the number of its rows, and the order of the photos.
_Layout = tuple[npt.NDArray[np.int32], npt.NDArray[Any], list[int]]
_OPENCV = {torch.int32: cv2.CV_32S, torch.float64: cv2.CV_64F}


class IntegralImages:
    """The integral images of photos of any sizes.

    A GPU gets the photos as they are, 3 bytes per pixel, and adds them up itself. The sums are the same.

    Args:
        photos: uint8 (H, W, 3) each.
        device: the device of the sums.
        squeeze: cut candidates that reach beyond their photo at its border, as facenet-pytorch does; otherwise the part
            outside is black, as with the original's pad.m, so that faces at the border keep their shape.
    """

    sum_type: ClassVar[torch.dtype] = torch.int32

    def __init__(self, photos: Sequence[Pixels], device: Device, squeeze: bool = False) -> None:
        groups = group_by_size(photos)
        starts, counts, order = self._describe(photos, device, squeeze)
        if device.is_cuda:
            pixels = np.concatenate([photos[index].reshape(-1) for index in order])
            shapes = [(len(group), *photos[group[0]].shape[:2]) for group in groups]
            self._sums = sum_on_device(device.put(torch.from_numpy(pixels)), shapes, self.sum_type)
        else:
            self._sums = _sum_on_host(photos, starts, counts, self.sum_type)

    def _describe(self, photos: Sequence[Pixels], device: Device, squeeze: bool) -> _Layout:
        """Set the attributes that do not depend on the pixels, and return the layout of the sums."""
        sizes = np.array([photo.shape[:2] for photo in photos], np.int32).reshape(-1, 2)
        counts, order = (sizes + 1).prod(1), [index for group in group_by_size(photos) for index in group]
        starts = np.zeros(len(photos), np.int32)
        starts[order] = np.cumsum([0, *counts[order]])[:-1]
        self._starts = device.put(torch.from_numpy(starts))
        self._sizes = device.put(torch.from_numpy(sizes))
        self._squeeze = squeeze
        self._offset = torch.full((), -127.5 / 128, dtype=torch.float32, device=device.torch)
        return starts, counts, order

    def draw_canvas(self, photo_ids: Tensor, canvas: Canvas) -> Tensor:
        """Draw a canvas for each of B photos of its size: float32 (B, 4, h, w), channels_last; channel 4 is unused."""
        if len(photo_ids) == 1 and not photo_ids.is_cuda:  # the look-ups start at the photo: no sum with each corner
            sums = self._sums[int(self._starts[photo_ids]) :]
            return area_means(sums, canvas.corners[None], canvas.weight, self._offset).permute(0, 3, 1, 2)
        return self._area_means(canvas.corners + self._starts[photo_ids, None, None, None, None], canvas.weight)

    def _area_means(self, corners: Tensor, weight: Tensor) -> Tensor:
        """Compute normalised means of rectangles, see `area_means`: float32 (N, 4, H, W), channels_last."""
        return area_means(self._sums, corners, weight, self._offset).permute(0, 3, 1, 2)

    def regions(self, photo_ids: Tensor, boxes: Tensor) -> Tensor:
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

    def touches(self, photo_ids: Tensor, boxes: Tensor) -> Tensor:
        """Mark the boxes that touch their photo: bool (N,)."""
        regions = self.regions(photo_ids, boxes)
        return (regions[:, 2:] > regions[:, :2]).all(1)

    def crop_and_resize(self, photo_ids: Tensor, regions: Tensor, side: int, mirrored: bool = False) -> Tensor:
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


def area_means(sums: Tensor, corners: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Compute normalised means of rectangles.

    Args:
        sums: int32 (S, 4), integral images.
        corners: (N, 2, H, 2, W), rows of the sums, low and high in y and x.
        weight: (N, H, W * 4) or (H, W * 4).
        offset: is added.

    Returns:
        float32 (N, H, W, 4).
    """
    count, _, height, _, width = corners.shape
    pixels = sums.view(torch.complex128)[:, 0]  # 16 bytes, moved as one
    corner_sums = pixels.index_select(0, corners.flatten()).view(torch.int32).view(count, 2, height, 2, width * 4)
    rows = corner_sums[:, 1].sub_(corner_sums[:, 0])
    means = torch.addcmul(offset, rows[:, :, 1].sub_(rows[:, :, 0]).float(), weight)
    return means.view(count, height, width, 4)


def group_by_size(photos: Sequence[Pixels]) -> list[list[int]]:
    """Return the indices of the photos of each size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault(photo.shape[:2], []).append(index)
    return list(groups.values())


def sum_on_device(pixels: Tensor, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> Tensor:
    """Compute the integral images of photos that are already on their device.

    Args:
        pixels: uint8 (P,), the photos one after the other, those of one size together.
        shapes: number, height and width of the photos of each size.
        dtype: of the sums, int32 or float64.

    Returns:
        (S, 4), the sums of `_sum_on_host`.
    """
    sums = torch.zeros(sum(n * (h + 1) * (w + 1) for n, h, w in shapes), 4, dtype=dtype, device=pixels.device)
    first_pixel, first = 0, 0
    for number, height, width in shapes:
        count, end = number * height * width * 3, first + number * (height + 1) * (width + 1)
        block = sums[first:end].view(number, height + 1, width + 1, 4)
        block[:, 1:, 1:, :3] = pixels[first_pixel : first_pixel + count].view(number, height, width, 3)
        block[:, 1:, 1:, 3] = 255
        block.cumsum_(1).cumsum_(2)
        first_pixel, first = first_pixel + count, end
    return sums


def _sum_on_host(
    photos: Sequence[Pixels], starts: npt.NDArray[np.int32], counts: npt.NDArray[np.int32], dtype: torch.dtype
) -> Tensor:
    """Compute the integral images of photos: (S, 4), for each the sums of red, green, blue and 255.

    32 bits overflow in large photos, but differences over fewer than 2^23 pixels are still right.
    """
    sums = torch.empty(int(counts.sum()), 4, dtype=dtype, device="cpu")
    for photo, start, count in zip(photos, starts, counts, strict=True):
        block = sums.numpy()[start : start + count].reshape(photo.shape[0] + 1, -1, 4)
        cv2.integral(cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA), block, sdepth=_OPENCV[dtype])
    return sums
