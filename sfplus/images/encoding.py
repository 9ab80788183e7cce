"""Encode images as JPEG or PNG, and scale them down."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfplus.errors import UsageError
from sfplus.images.pixels import Pixels

_ENCODERS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def shrink(image: Pixels, side: int) -> Pixels:
    """Scale an image down so that neither of its sides is longer than `side` pixels; a smaller one stays as it is."""
    smaller = Image.fromarray(image)
    smaller.thumbnail((side, side))
    return np.asarray(smaller)


def encode_image(rgb: Pixels, suffix: str = ".jpg", quality: int = 75) -> bytes:
    """Encode an image as JPEG or PNG.

    Args:
        rgb: uint8 (H, W, 3).
        suffix: `.jpg`, `.jpeg` or `.png`.
        quality: of JPEG, 1 to 95; 75 is MATLAB's default, with which the SphereFace crops were written.

    Returns:
        The bytes of the file; equal for the same image and library versions.

    Raises:
        UsageError: If the array is not an image, the suffix is unknown or the quality is out of range.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise UsageError(f"expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}", where="image")
    encoder = _ENCODERS.get(suffix.lower())
    if encoder is None:
        raise UsageError(f"cannot write '{suffix}'", where="suffix", remedy=f"use one of {', '.join(_ENCODERS)}")
    if not 1 <= quality <= 95:
        raise UsageError(f"expected 1 to 95, got {quality}", where="quality")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, encoder, **({"quality": quality} if encoder == "JPEG" else {}))
    return buffer.getvalue()
