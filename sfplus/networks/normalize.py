"""Normalise uint8 images for a network."""

from __future__ import annotations

import torch
from torch import Tensor


def normalize_images(images: Tensor, *, bgr: bool = False, mean: float = 127.5, scale: float = 128.0) -> Tensor:
    """Convert uint8 images to the normalised input of a network, `(x - mean) / scale`.

    Args:
        images: uint8 (N, H, W, C) on any device, RGB where C is 3.
        bgr: reverse the order of the channels, for networks that were defined in Caffe.
        mean: value that becomes 0.
        scale: difference from the mean that becomes 1.

    Returns:
        float32 (N, C, H, W) on the same device, in channels_last memory format.
    """
    channels = images.flip(-1) if bgr else images
    return channels.permute(0, 3, 1, 2).to(torch.float32).sub_(mean).mul_(1 / scale)


def normalize_crops(crops: Tensor) -> Tensor:
    """Convert crops to the input of face networks: BGR, `(x - 127.5) / 128` (sphereface_model.prototxt).

    Args:
        crops: uint8 RGB (N, H, W, 3) on any device.

    Returns:
        float32 (N, 3, H, W) on the same device, in channels_last memory format.
    """
    return normalize_images(crops, bgr=True)
