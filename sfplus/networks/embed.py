"""Features of many crops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.device import Device, keep_freed_memory
from sfplus.errors import UsageError
from sfplus.networks.sphereface import to_input

Dtype = Literal["float32", "bfloat16"]

_IMAGES = {"cpu": 16, "cuda": 256}  # of a pass, mirror images included; on a CPU more of them outgrow its cache


def pass_size(device: Device, mirror: bool = True) -> int:
    """Crops of one pass of a network where nothing else is asked for: the fastest number that was measured."""
    return _IMAGES[device.torch.type] // (2 if mirror else 1)


def embed_crops(
    network: nn.Module,
    crops: Tensor,
    device: Device,
    batch_size: int | None = None,
    mirror: bool = True,
    dtype: Dtype = "float32",
) -> np.ndarray:
    """Features of crops in memory, each beside the feature of its mirror image (evaluation.m).

    The same call gives the same bits. The other crops of a batch do not matter; its size changes a feature by rounding
    only: in float32, which is without autocast and TF32, by about 1e-7 of its length on a CPU.

    Args:
        network: moved to the device; in evaluation mode during the call.
        crops: uint8 RGB (N, H, W, 3), on the host, N >= 1.
        device: where to compute.
        batch_size: crops per pass, which also holds their mirror images; default `pass_size`.
        mirror: without it only the features of the crops themselves.
        dtype: `float32`, the reference, or `bfloat16`, which is autocast: about twice as fast where the processor has
            it, and off by less than 1 % of a feature's length (its direction by less than 0.01 radian).

    Returns:
        float32 (N, 2 F), or (N, F) without mirror; not normalised.

    Raises:
        UsageError: there is no such dtype.
    """
    batches = torch.split(crops, batch_size or pass_size(device, mirror))
    return np.concatenate(list(embed_batches(network, batches, device, mirror, dtype)))


def embed_batches(
    network: nn.Module,
    batches: Iterable[Tensor],
    device: Device,
    mirror: bool = True,
    dtype: Dtype = "float32",
) -> Iterator[np.ndarray]:
    """Features of one batch after the other; see `embed_crops`.

    A GPU is at work on the next batch while the last one's features are fetched and used, so two batches are in memory,
    however many there are. The network is in evaluation mode until the iterator ends.
    """
    if dtype not in get_args(Dtype):
        raise UsageError(f"no dtype is called '{dtype}'", where="dtype", remedy="use float32 or bfloat16")
    was_training = network.training
    device.place(network).eval()
    keep_freed_memory()
    try:
        waiting: Tensor | None = None
        for batch in batches:
            features = _features(network, batch, device, mirror, dtype)
            if waiting is not None:
                yield waiting.cpu().numpy()
            waiting = features
        if waiting is not None:
            yield waiting.cpu().numpy()
    finally:
        network.train(was_training)


@torch.inference_mode()
def _features(network: nn.Module, batch: Tensor, device: Device, mirror: bool, dtype: Dtype) -> Tensor:
    half = torch.autocast(device.torch.type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False), half:
        crops = device.put(batch)
        features = network(to_input(torch.cat([crops, crops.flip(2)]) if mirror else crops)).float()
    return torch.cat(features.chunk(2), dim=1) if mirror else features
