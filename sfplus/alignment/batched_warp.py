"""Batched crops on the device of the photos, for GPUs; `warp` is the reference."""

from __future__ import annotations

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from sfplus.alignment.templates import DEFAULT_TEMPLATE, Template, find_template
from sfplus.alignment.warping import Border
from sfplus.errors import UsageError


def warp_batch(
    photos: Tensor, matrices: npt.ArrayLike, template: str | Template = DEFAULT_TEMPLATE, border: Border = "black"
) -> Tensor:
    """Sample one crop from each photo of a batch, bilinearly.

    OpenCV rounds positions to 1/32 of a pixel; this does not. The crops differ by a few grey levels at sharp edges.

    Args:
        photos: uint8 or float RGB (N, 3, H, W), on any device.
        matrices: (N, 2, 3), from photo to crop, 0-based pixel centres (see `fit_similarity`).
        template: gives the size of the crops.
        border: pixels outside the photo, `black` or `replicate`.

    Returns:
        (N, 3, template.height, template.width), dtype and device of the photos.

    Raises:
        UsageError: If a shape is wrong, or the border unknown.
    """
    size = find_template(template)
    forward = torch.as_tensor(matrices, dtype=torch.float64)
    if photos.ndim != 4 or photos.shape[1] != 3 or forward.shape != (len(photos), 2, 3):
        reason = f"expected (N, 3, H, W) and (N, 2, 3), got {tuple(photos.shape)} and {tuple(forward.shape)}"
        raise UsageError(reason, where="photos and matrices")
    modes = {"black": "zeros", "replicate": "border"}
    if border not in modes:
        raise UsageError(f"'{border}' is not supported", where="border", remedy="use black, replicate")
    columns, rows = torch.meshgrid(torch.arange(size.width), torch.arange(size.height), indexing="xy")
    crop = torch.stack([columns, rows]).flatten(1).double()
    positions = torch.linalg.solve(forward[:, :, :2], crop - forward[:, :, 2:]).transpose(1, 2)
    lengths = torch.tensor([photos.shape[3], photos.shape[2]])
    grid = ((2 * positions + 1) / lengths - 1).view(-1, size.height, size.width, 2)
    sampled = grid_sample(
        photos.float(), grid.to(photos.device, torch.float32), padding_mode=modes[border], align_corners=False
    )
    return sampled.round_().to(photos.dtype) if photos.dtype == torch.uint8 else sampled.to(photos.dtype)
