"""Features of many crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.networks.sphereface import to_input

if TYPE_CHECKING:
    from sfplus.datasets.crops import CropDataset
    from sfplus.device import Device


def embed(
    network: nn.Module,
    crops: CropDataset,
    device: Device,
    batch_size: int = 64,
    mirror: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Features of a set of crops, in its order; see `embed_crops`.

    Args:
        network: moved to the device; in evaluation mode during the call.
        crops: N crops.
        device: where to compute.
        batch_size: crops per pass; each pass also holds their mirror images.
        mirror: without it only the features of the crops themselves.
        on_batch: called after each pass with its number of crops.

    Returns:
        float32 (N, 2 F), or (N, F) without mirror; not normalised.
    """
    spans = (np.arange(start, min(start + batch_size, len(crops))) for start in range(0, len(crops), batch_size))
    return _embed(network, (crops.batch(span)[0] for span in spans), device, mirror, on_batch)


def embed_crops(
    network: nn.Module, crops: Tensor, device: Device, batch_size: int = 64, mirror: bool = True
) -> np.ndarray:
    """Features of crops in memory, each beside the feature of its mirror image (evaluation.m).

    Computed in float32, without autocast and TF32. The same call gives the same bits. The other crops of a batch do
    not matter; its size changes a feature by rounding only, by about 1e-7 of its length on a CPU.

    Args:
        network: moved to the device; in evaluation mode during the call.
        crops: uint8 RGB (N, H, W, 3), on the host, N >= 1.
        device: where to compute.
        batch_size: crops per pass; each pass also holds their mirror images.
        mirror: without it only the features of the crops themselves.

    Returns:
        float32 (N, 2 F), or (N, F) without mirror; not normalised.
    """
    return _embed(network, torch.split(crops, batch_size), device, mirror, None)


@torch.inference_mode()
def _embed(
    network: nn.Module,
    batches: Iterable[Tensor],
    device: Device,
    mirror: bool,
    on_batch: Callable[[int], None] | None,
) -> np.ndarray:
    was_training = network.training
    device.place(network).eval()
    parts = []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for batch in batches:
            crops = device.put(batch)
            features = network(to_input(torch.cat([crops, crops.flip(2)]) if mirror else crops)).float()
            parts.append(torch.cat(features.chunk(2), dim=1) if mirror else features)
            if on_batch is not None:
                on_batch(len(batch))
    network.train(was_training)
    return torch.cat(parts).cpu().numpy()
