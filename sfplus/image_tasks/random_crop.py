"""Augmentation of a batch of images at once, on any device: a mirrored border, a random crop, mirroring."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def draw_crops(
    seed: int, step: int, count: int, size: tuple[int, int], pad: int = 4, crop: int = 0, mirror: bool = True
) -> Tensor:
    """Draw the random crops of a step as a function of (seed, step), the same for any device and dataset.

    Args:
        seed: seed of the run.
        step: step of the run.
        count: B, images in the global batch.
        size: height and width of the images.
        pad: border at each side in pixels; 4 for CIFAR-10+ and CIFAR-100.
        crop: side of the crop in pixels; 0 for the size of the images.
        mirror: mirror half of the images.

    Returns:
        (B, 3) int64 on the host: top and left offset of the crop, and 1 for a mirrored image.
    """
    random = np.random.default_rng((2, seed, step))
    offsets = [random.integers(0, side + 2 * pad - (crop or side) + 1, count) for side in size]
    flips = (random.random(count) < 0.5) & mirror
    return torch.from_numpy(np.stack([*offsets, flips], axis=1))


def random_crop(images: Tensor, crops: Tensor, pad: int = 4, crop: int = 0) -> Tensor:
    """Pad by mirroring, crop and mirror all images of a batch at once.

    The border is NumPy's and TensorFlow's `symmetric`: the edge itself is repeated (MHE, cifar100_input_python.py).

    Args:
        images: uint8 (B, H, W, C), on any device.
        crops: (B, 3) from `draw_crops` with the same `pad` and `crop`, on the same device.
        pad: border at each side in pixels.
        crop: side of the crop in pixels; 0 for the size of the images.

    Returns:
        uint8 (B, crop, crop, C), or (B, H, W, C) if `crop` is 0.
    """
    count, height, width, _ = images.shape
    rows, columns = (_sources(side, pad, crop or side, images.device) for side in (height, width))
    top, left, flips = crops.unbind(1)
    across = torch.where(flips[:, None] > 0, columns[left].flip(1), columns[left])
    first = torch.arange(count, device=images.device)[:, None] * height
    index = (first + rows[top])[:, :, None] * width + across[:, None, :]
    pixels = images.reshape(count * height * width, -1)
    return pixels.index_select(0, index.flatten()).view(*index.shape, -1)


def _sources(side: int, pad: int, crop: int, device: torch.device) -> Tensor:
    """Return the source index of each pixel of a crop, for each offset: (offsets, crop) int64."""
    padded = torch.arange(-pad, side + pad, device=device) % (2 * side)
    return torch.where(padded < side, padded, 2 * side - 1 - padded).unfold(0, crop, 1)


def centre_crop(images: Tensor, crop: int) -> Tensor:
    """Return the central square of images (B, H, W, C), as (B, crop, crop, C)."""
    top, left = ((side - crop) // 2 for side in images.shape[1:3])
    return images[:, top : top + crop, left : left + crop]
