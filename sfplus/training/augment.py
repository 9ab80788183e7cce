"""Random geometric and photometric changes of face crops, applied to a batch at once on its device."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROTATION, SCALE, SHIFT = math.radians(10), 0.1, 0.05
CONTRAST, BRIGHTNESS, GREY = 0.3, 0.25, 0.15


def draw_distortions(step: int, count: int, seed: int, strength: float) -> Tensor:
    """Draw the distortions of a global batch as a function of seed and step.

    Args:
        step: number of the update, from 1.
        count: B, crops in the global batch.
        seed: seed of the run.
        strength: 1 for rotations of up to 10 degrees, scales of up to 10 per cent, contrasts of up to 30 per cent,
            shifts of up to 5 per cent of the sides, brightness of up to an eighth of the range, and 15 per cent of grey
            crops; other values multiply these.

    Returns:
        (B, 7) float32: angle in radians, scale, shift in x and in y (1 is half a side), contrast, brightness (2 is
        the range of the input), and 1 where the crop becomes grey, else 0.
    """
    random = np.random.default_rng((5, seed, step))  # 0 to 4 are used by training.sampling and datasets.samplers
    draw = random.uniform(-1, 1, (count, 7))
    draw[:, :6] *= np.array([ROTATION, SCALE, 2 * SHIFT, 2 * SHIFT, CONTRAST, BRIGHTNESS]) * strength
    draw[:, [1, 4]] += 1
    draw[:, 6] = draw[:, 6] < 2 * GREY * strength - 1
    return torch.from_numpy(draw).float()


def distort(crops: Tensor, distortions: Tensor) -> Tensor:
    """Apply the distortions of `draw_distortions`; the border is repeated beyond the edges.

    Args:
        crops: (B, 3, H, W) float in [-1, 1], as `networks.normalize.normalize_crops` returns them.
        distortions: (B, 7) on the same device.

    Returns:
        (B, 3, H, W) of the same dtype, in [-1, 1].
    """
    angle, scale, right, down, contrast, brightness, grey = distortions.to(crops.dtype).unbind(1)
    ratio = crops.shape[2] / crops.shape[3]
    sine, cosine = scale * angle.sin(), scale * angle.cos()
    matrices = torch.stack([cosine, -sine * ratio, right, sine / ratio, cosine, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(crops.shape), align_corners=False)
    warped = F.grid_sample(crops, grid, padding_mode="border", align_corners=False)
    lit = torch.addcmul(brightness.view(-1, 1, 1, 1), warped, contrast.view(-1, 1, 1, 1)).clamp_(-1, 1)
    return torch.where(grey.view(-1, 1, 1, 1) > 0, lit.mean(1, keepdim=True), lit)
