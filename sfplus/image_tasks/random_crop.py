"""Augmentation of a batch of pictures at once, on any device: a mirrored border, a random cut, mirroring."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def draw_cuts(
    seed: int, step: int, count: int, size: tuple[int, int], pad: int = 4, crop: int = 0, mirror: bool = True
) -> Tensor:
    """How the pictures of a step are to be cut: a function of (seed, step), equal for any device and set.

    Args:
        seed: of the run.
        step: of the run.
        count: B, pictures of the whole batch.
        size: of the pictures, height and width.
        pad: pixels at each side; 4 for CIFAR-10+ and CIFAR-100.
        crop: side of the cut; 0 for the size of the pictures.
        mirror: whether to mirror half of the pictures.

    Returns:
        Rows and columns to leave out, and 1 for a mirrored picture: (B, 3) int64, on the host.
    """
    random = np.random.default_rng((2, seed, step))
    offsets = [random.integers(0, side + 2 * pad - (crop or side) + 1, count) for side in size]
    flips = (random.random(count) < 0.5) & mirror
    return torch.from_numpy(np.stack([*offsets, flips], axis=1))


def cut(pictures: Tensor, cuts: Tensor, pad: int = 4, crop: int = 0) -> Tensor:
    """Pad by mirroring, cut, mirror: all pictures of a batch at once.

    The border is NumPy's and TensorFlow's `symmetric`: the edge itself is repeated (MHE, cifar100_input_python.py).

    Args:
        pictures: uint8 (B, H, W, C), on any device.
        cuts: of `draw_cuts` with the same pad and crop, on the same device.
        pad: pixels at each side.
        crop: side of the cut; 0 for the size of the pictures.

    Returns:
        uint8 (B, crop, crop, C), or (B, H, W, C).
    """
    count, height, width, _ = pictures.shape
    rows, columns = (_places(side, pad, crop or side, pictures.device) for side in (height, width))
    down, right, flips = cuts.unbind(1)
    across = torch.where(flips[:, None] > 0, columns[right].flip(1), columns[right])
    first = torch.arange(count, device=pictures.device)[:, None] * height
    index = (first + rows[down])[:, :, None] * width + across[:, None, :]
    flat = pictures.reshape(count * height * width, -1)
    return flat.index_select(0, index.flatten()).view(*index.shape, -1)


@lru_cache(maxsize=8)
def _places(side: int, pad: int, crop: int, device: torch.device) -> Tensor:
    """Where the pixels of a cut come from, for each offset: (offsets, crop) int64."""
    padded = np.pad(np.arange(side), pad, "symmetric")
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(padded, crop).copy()).to(device)


def centre(pictures: Tensor, crop: int) -> Tensor:
    """The square in the middle of pictures (B, H, W, C)."""
    top, left = ((side - crop) // 2 for side in pictures.shape[1:3])
    return pictures[:, top : top + crop, left : left + crop]
