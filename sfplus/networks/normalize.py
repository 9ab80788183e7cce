"""Normalise uint8 images for a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfplus.networks.preprocessing import PRESETS, Preprocessing


def normalize_images(
    images: Tensor,
    *,
    bgr: bool = False,
    mean: float | Sequence[float] = 127.5,
    scale: float | Sequence[float] = 128.0,
) -> Tensor:
    """Convert uint8 images to the normalised input of a network, `(x - mean) / scale`.

    Args:
        images: uint8 (N, H, W, C) on any device, RGB where C is 3.
        bgr: reverse the order of the channels, for networks that were defined in Caffe.
        mean: value that becomes 0; one, or one for each channel in their new order.
        scale: difference from the mean that becomes 1, likewise.

    Returns:
        float32 (N, C, H, W) on the same device, in channels_last memory format.
    """
    channels = images.flip(-1) if bgr else images
    x = channels.permute(0, 3, 1, 2).to(torch.float32)
    return x.sub_(_per_channel(mean, x)).mul_(1 / _per_channel(scale, x))


def normalize_crops(crops: Tensor, preprocessing: Preprocessing = PRESETS["sphereface"]) -> Tensor:
    """Convert crops to the input of a face network.

    Args:
        crops: uint8 RGB (N, H, W, 3) on any device.
        preprocessing: of the network; default: that of SphereFace, BGR, `(x - 127.5) / 128`
            (sphereface_model.prototxt).

    Returns:
        float32 (N, 3, H, W) on the same device, in channels_last memory format.
    """
    bgr = preprocessing.channels == "bgr"
    return normalize_images(crops, bgr=bgr, mean=preprocessing.mean, scale=preprocessing.scale)


def _per_channel(values: float | Sequence[float], x: Tensor) -> float | Tensor:
    if isinstance(values, float | int):
        return values
    if len(values) == 1:
        return values[0]
    return torch.tensor(values, dtype=x.dtype, device="cpu").to(x.device, non_blocking=True).view(-1, 1, 1)
