"""Large images are converted in strips: the same pixels as at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from slow_cases import mostly_slow

from sfplus.errors import PhotoError
from sfplus.images import pixels
from sfplus.images.pixels import to_rgb

PHOTO = Image.fromarray(data.astronaut()).resize((61, 47))


def image_of(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 251)
    if mode == "P, one transparent colour":
        image = PHOTO.convert("P")
        image.info["transparency"] = 3
        return image
    if mode == "RGB, one transparent colour":
        image = PHOTO.copy()
        image.info["transparency"] = PHOTO.getpixel((5, 5))
        return image
    image = PHOTO.convert(mode)
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(PHOTO.convert("L").rotate(90, expand=False))
    return image


MODES = ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "HSV", "I", "I;16"]
MODES += ["P, one transparent colour", "RGB, one transparent colour"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", mostly_slow(range(10), [1, 6]))
@pytest.mark.parametrize("strip", [1, 61 * 5, 61 * 46])
def test_strips_give_the_same_pixels(mode: str, orientation: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(mode)
    at_once = to_rgb(image, orientation, Path("a"))
    monkeypatch.setattr(pixels, "_STRIP", strip)
    in_strips = to_rgb(image, orientation, Path("a"))
    assert in_strips.flags.c_contiguous and in_strips.dtype == np.uint8
    np.testing.assert_array_equal(in_strips, at_once)


@pytest.mark.parametrize("samples", [np.full((40, 40), 70_000, np.int32), np.ones((40, 40), np.float32)])
def test_samples_that_are_not_those_of_a_photo_are_refused(
    samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_STRIP", 80)
    with pytest.raises(PhotoError, match=r"a: has (32-bit|floating-point) samples"):
        to_rgb(Image.fromarray(samples), 1, Path("a"))
