"""From a Pillow image of any mode to RGB, in strips, so that a large photo needs no second and third copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfplus.errors import PhotoError

Pixels = npt.NDArray[np.uint8]

_STRIP = 1 << 20  # pixels that are converted at a time
# EXIF orientation -> the operation that undoes it (EXIF 2.3, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED, _REVERSED = (5, 6, 7, 8), (3, 4, 6, 7)  # the rows of the file become columns; the first row becomes the last


def to_rgb(image: Image.Image, orientation: object, where: Path) -> Pixels:
    """Convert a loaded image to RGB and turn it upright; it becomes white where it is transparent.

    Args:
        image: not modified.
        orientation: its EXIF orientation; other values than 2 to 8 mean that it is upright.
        where: the name of the photo in messages.

    Returns:
        uint8 RGB (H, W, 3), contiguous.

    Raises:
        PhotoError: If its samples are not those of a photo.
    """
    width, height = image.size
    rows = max(1, _STRIP // width)
    if rows >= height:
        return np.array(_convert(_turn(image, orientation), where))
    turned = orientation in _SWAPPED
    pixels = np.empty((width, height, 3) if turned else (height, width, 3), np.uint8)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        strip = _convert(_turn(image.crop((0, first, width, last)), orientation), where)
        span = slice(height - last, height - first) if orientation in _REVERSED else slice(first, last)
        pixels[(slice(None), span) if turned else span] = np.asarray(strip)
    return pixels


def _turn(image: Image.Image, orientation: Any) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _convert(image: Image.Image, where: Path) -> Image.Image | Pixels:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), where)
    if image.mode == "F":
        raise PhotoError("has floating-point samples", where=where, remedy="convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _from_16_bit(samples: npt.NDArray[np.generic], where: Path) -> Pixels:
    values = samples.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PhotoError("has 32-bit samples", where=where, remedy="convert it to 8 or 16 bits")
    grey = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
