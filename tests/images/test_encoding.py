"""Encoding images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sfplus.errors import UsageError
from sfplus.images import encode_image


def colours() -> np.ndarray:
    """Return 5x8 pixels, all different."""
    ramp = np.arange(8 * 5, dtype=np.uint8).reshape(5, 8)
    return np.stack([ramp * 6, 255 - ramp * 3, ramp], 2)


def test_png_is_lossless_and_jpeg_has_the_requested_quality() -> None:
    image = data.astronaut()[:128, :128]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(image, ".PNG")))), image)
    sizes = [len(encode_image(image, ".jpeg", quality)) for quality in (30, 75, 95)]
    assert sizes == sorted(set(sizes))
    assert len(encode_image(image)) == sizes[1]
    with Image.open(io.BytesIO(encode_image(image))) as decoded:
        assert decoded.format == "JPEG"
    assert encode_image(image) == encode_image(image.copy())


@pytest.mark.parametrize(
    ("image", "suffix", "quality"),
    [
        (colours().astype(np.float32), ".jpg", 75),
        (colours()[:, :, 0], ".jpg", 75),
        (colours()[:0], ".jpg", 75),
        (colours(), ".gif", 75),
        (colours(), "jpg", 75),
        (colours(), ".jpg", 0),
    ],
)
def test_invalid_arguments_of_encode_image_are_refused(image: np.ndarray, suffix: str, quality: int) -> None:
    with pytest.raises(UsageError):
        encode_image(image, suffix, quality)
