from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from sfplus.detection.imresample import MatlabIntegralImages
from sfplus.detection.integral_images import IntegralImages, group_by_size, sum_on_device
from sfplus.device import Device, choose_device

SHAPES = [(3, 5), (40, 61), (1, 1), (3, 5), (1, 200), (130, 1), (40, 61)]
KINDS = [(torch.int32, cv2.CV_32S, np.int32), (torch.float64, cv2.CV_64F, np.float64)]


def opencv(photo: np.ndarray, depth: int) -> np.ndarray:
    return np.asarray(cv2.integral(cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA), sdepth=depth))


@pytest.mark.parametrize(("dtype", "depth", "kind"), KINDS)
def test_the_sums_of_a_device_are_those_of_opencv(
    device: torch.device, dtype: torch.dtype, depth: int, kind: type
) -> None:
    photos = [np.random.default_rng(n).integers(0, 256, (*shape, 3), np.uint8) for n, shape in enumerate(SHAPES)]
    groups = group_by_size(photos)
    order = [index for group in groups for index in group]
    pixels = torch.from_numpy(np.concatenate([photos[index].ravel() for index in order])).to(device)
    shapes = [(len(group), *photos[group[0]].shape[:2]) for group in groups]
    sums = sum_on_device(pixels, shapes, dtype)
    assert sums.dtype == dtype and sums.device == pixels.device
    expected = np.concatenate([opencv(photos[index], depth).reshape(-1, 4) for index in order])
    assert expected.dtype == kind
    np.testing.assert_array_equal(sums.cpu().numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "depth", "kind"), KINDS)
def test_sums_beyond_32_bits_overflow_as_those_of_opencv(
    device: torch.device, dtype: torch.dtype, depth: int, kind: type
) -> None:
    white = np.full((900, 9400, 3), 255, np.uint8)  # 2.16e9 > 2^31
    sums = sum_on_device(torch.from_numpy(white).to(device).flatten(), [(1, 900, 9400)], dtype).cpu().numpy()
    np.testing.assert_array_equal(sums.reshape(901, 9401, 4), opencv(white, depth))
    assert (sums.min() < 0) == (kind is np.int32)


class PretendGPU(Device):
    """The CPU, used like a GPU."""

    is_cuda = True

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()


@pytest.mark.parametrize("maker", [IntegralImages, MatlabIntegralImages])
def test_photos_of_mixed_sizes_give_the_same_regions_on_both_ways(maker: type[IntegralImages]) -> None:
    """The photos of one size lie together in memory, in any order of the photos."""
    photos = [np.random.default_rng(n).integers(0, 256, (*shape, 3), np.uint8) for n, shape in enumerate(SHAPES)]
    photo_ids = torch.arange(len(photos))
    regions = torch.tensor([[0, 0, w, h] for h, w in SHAPES])
    on_host, on_device = maker(photos, choose_device("cpu")), maker(photos, PretendGPU(torch.device("cpu")))
    expected = on_host.crop_and_resize(photo_ids, regions, 24)
    assert torch.equal(on_device.crop_and_resize(photo_ids, regions, 24), expected)
    for photo, crop in zip(photos, expected, strict=True):
        mean = (photo.mean((0, 1)) - 127.5) / 128
        if photo.shape[0] % 24 == 0 or min(photo.shape[:2]) == 1:
            np.testing.assert_allclose(crop[:3].mean((1, 2)).numpy(), mean, atol=0.3)
