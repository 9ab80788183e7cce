"""Crops that are turned, scaled, moved, lit and greyed at random, all of a batch in one pass on its device."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TURN, SCALE, SHIFT = math.radians(10), 0.1, 0.05
CONTRAST, BRIGHTNESS, GREY = 0.3, 0.25, 0.15


def draw_distortions(step: int, count: int, seed: int, strength: float) -> Tensor:
    """How each crop of the global batch of a step is changed: a function of seed and step.

    Args:
        step: 1-based number of the update.
        count: B, crops of the global batch.
        seed: of the run.
        strength: 1 for turns of up to 10 degrees, scales and contrasts of up to 10 and 30 per cent, shifts of up to 5
            per cent of the sides, brightness of up to an eighth of the range, and 15 per cent of grey crops; other
            values multiply these.

    Returns:
        (B, 7) float32: angle in radians, scale, shift in x and in y (1 is half a side), contrast, brightness (2 is
        the range of the input), and 1 where the crop becomes grey, else 0.
    """
    random = np.random.default_rng((5, seed, step))  # 0 to 4 are training.batches and datasets.samplers
    draw = random.uniform(-1, 1, (count, 7))
    draw[:, :6] *= np.array([TURN, SCALE, 2 * SHIFT, 2 * SHIFT, CONTRAST, BRIGHTNESS]) * strength
    draw[:, [1, 4]] += 1
    draw[:, 6] = draw[:, 6] < 2 * GREY * strength - 1
    return torch.from_numpy(draw).float()


def distort(crops: Tensor, distortions: Tensor) -> Tensor:
    """Change crops as `draw_distortions` says; what comes in from beyond the border repeats it.

    Args:
        crops: (B, 3, H, W) float in [-1, 1], as `networks.normalize.normalize_crops` makes them.
        distortions: (B, 7) on the same device.

    Returns:
        (B, 3, H, W) of the same dtype, in [-1, 1].
    """
    angle, scale, right, down, contrast, brightness, grey = distortions.to(crops.dtype).unbind(1)
    ratio = crops.shape[2] / crops.shape[3]
    sine, cosine = scale * angle.sin(), scale * angle.cos()
    rows = torch.stack([cosine, -sine * ratio, right, sine / ratio, cosine, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(crops.shape), align_corners=False)
    moved = F.grid_sample(crops, grid, padding_mode="border", align_corners=False)
    lit = torch.addcmul(brightness.view(-1, 1, 1, 1), moved, contrast.view(-1, 1, 1, 1)).clamp_(-1, 1)
    return torch.where(grey.view(-1, 1, 1, 1) > 0, lit.mean(1, keepdim=True), lit)
