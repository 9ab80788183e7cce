"""Batched crops on the device of the photos, for GPUs; `warp` is the reference."""

from __future__ import annotations

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from sfplus.alignment.templates import DEFAULT_TEMPLATE, Template, find_template
from sfplus.alignment.warping import Border
from sfplus.device import Device
from sfplus.errors import UsageError


def warp_batch(
    photos: Tensor, matrices: npt.ArrayLike, template: str | Template = DEFAULT_TEMPLATE, border: Border = "black"
) -> Tensor:
    """Sample one crop from each photo of a batch, bilinearly.

    OpenCV rounds positions to 1/32 of a pixel; this does not. The crops differ by a few grey levels at sharp edges.

    Args:
        photos: uint8 or float RGB (N, 3, H, W), on any device.
        matrices: (N, 2, 3), from photo to crop, 0-based pixel centres (see `fit_similarity`), on the host.
        template: gives the size of the crops.
        border: pixels outside the photo, `black` or `replicate`.

    Returns:
        (N, 3, template.height, template.width), dtype and device of the photos.

    Raises:
        UsageError: If a shape is wrong, a matrix has no inverse, or the border is unknown.
    """
    size = find_template(template)
    forward = torch.as_tensor(matrices, dtype=torch.float64, device="cpu")
    if photos.ndim != 4 or photos.shape[1] != 3 or forward.shape != (len(photos), 2, 3):
        reason = f"expected (N, 3, H, W) and (N, 2, 3), got {tuple(photos.shape)} and {tuple(forward.shape)}"
        raise UsageError(reason, where="photos and matrices")
    modes = {"black": "zeros", "replicate": "border"}
    if border not in modes:
        raise UsageError(f"'{border}' is not supported", where="border", remedy="use black, replicate")
    back = Device(photos.device).put(_to_grid(forward, photos.shape[3], photos.shape[2]))
    columns = torch.arange(size.width, device=photos.device, dtype=torch.float64)
    rows = torch.arange(size.height, device=photos.device, dtype=torch.float64)
    x, y, shift = (back[:, None, None, :, column] for column in range(3))
    grid = x * columns[:, None] + y * rows[:, None, None] + shift
    sampled = grid_sample(photos.float(), grid.float(), padding_mode=modes[border], align_corners=False)
    return sampled.round_().to(photos.dtype) if photos.dtype == torch.uint8 else sampled.to(photos.dtype)


def _to_grid(forward: Tensor, width: int, height: int) -> Tensor:
    """Return the matrices (N, 2, 3) from pixels of the crop to positions of `grid_sample`: -1 to 1 in the photo."""
    inverse, errors = torch.linalg.inv_ex(forward[:, :, :2])
    if errors.any() or not inverse.isfinite().all():
        raise UsageError("has no inverse", where="matrices")
    back = torch.cat([inverse, -inverse @ forward[:, :, 2:]], 2)
    back[:, :, 2] += 0.5  # positions of grid_sample count from the edge of the first pixel
    back *= 2 / torch.tensor([[width], [height]], dtype=torch.float64, device="cpu")
    back[:, :, 2] -= 1
    return back
