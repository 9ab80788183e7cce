"""Random crops against NumPy, image by image."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_datasets import pixels

from sfplus.image_tasks.random_crop import draw_crops, random_crop


@given(st.integers(0, 2**40), st.integers(1, 10**9), st.integers(0, 5), st.sampled_from([0, 5, 8]), st.booleans())
def test_random_crop_matches_numpy_image_by_image(seed: int, step: int, pad: int, crop: int, mirror: bool) -> None:
    images = pixels(5)
    cropped = random_crop(images, draw_crops(seed, step, 5, (8, 8), pad, crop, mirror), pad, crop)
    side = crop or 8
    assert cropped.shape == (5, side, side, 3)
    random = np.random.default_rng((2, seed, step))
    down, right = (random.integers(0, 8 + 2 * pad - side + 1, 5) for _ in range(2))
    flips = (random.random(5) < 0.5) & mirror
    for k in range(5):
        padded = np.pad(images[k].numpy(), [(pad, pad), (pad, pad), (0, 0)], "symmetric")
        part = padded[down[k] : down[k] + side, right[k] : right[k] + side]
        assert np.array_equal(cropped[k].numpy(), part[:, ::-1] if flips[k] else part)


def test_random_crop_is_uniform_over_offsets_and_mirrors_half() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1).expand(4000, -1, -1, -1)
    corners = random_crop(ramp, draw_crops(0, 1, 4000, (8, 8), 0, 7), 0, 7)[:, 0, 0, 0].bincount(minlength=64)
    # Two offsets in each direction; mirrored images start at the right end of their crop.
    assert {int(pixel) for pixel in corners.nonzero()} == {0, 1, 8, 9, 6, 7, 14, 15}
    assert (corners[corners > 0] - 500).abs().max() < 5 * 500**0.5
