from __future__ import annotations

import numpy as np
import pytest
import torch

from sfplus.networks.normalize import normalize_crops, normalize_images


@pytest.mark.parametrize(("channels", "bgr"), [(3, False), (3, True), (1, False)])
@pytest.mark.parametrize("scale", [128.0, 127.5])
def test_images_are_normalised_exactly(channels: int, bgr: bool, scale: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, channels), dtype=np.uint8)
    x = normalize_images(torch.from_numpy(images), bgr=bgr, scale=scale)
    ordered = images[..., ::-1] if bgr else images
    expected = (ordered.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(127.5)) * np.float32(1 / scale)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(x.numpy(), expected)


def test_the_images_are_not_changed() -> None:
    images = torch.full((1, 2, 2, 3), 7, dtype=torch.uint8)
    normalize_images(images)
    assert (images == 7).all()


def test_crops_are_bgr_over_128() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    x = normalize_crops(torch.from_numpy(crops))
    expected = (crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float64) - 127.5) / 128
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(x.numpy(), expected.astype(np.float32))
