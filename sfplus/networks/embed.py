"""Features of crops, computed in batches."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.arithmetic import exact_arithmetic
from sfplus.device import Device, memory_errors
from sfplus.errors import UsageError, WeightsError
from sfplus.networks.normalize import normalize_crops
from sfplus.networks.preprocessing import PRESETS, Preprocessing

Dtype = Literal["float32", "bfloat16"]

_IMAGES_PER_PASS = {"cpu": 16, "cuda": 256}  # mirror images included; larger passes do not fit the cache of a CPU


def default_batch_size(device: Device, mirror: bool = True) -> int:
    """Return the number of crops per pass of a network that was measured to be the fastest on a device."""
    return _IMAGES_PER_PASS[device.torch.type] // (2 if mirror else 1)


def embed_crops(
    network: nn.Module,
    crops: Tensor,
    device: Device,
    batch_size: int | None = None,
    preprocessing: Preprocessing = PRESETS["sphereface"],
    dtype: Dtype = "float32",
) -> np.ndarray:
    """Compute the features of crops; for SphereFace, each is followed by that of the mirror image (evaluation.m).

    The same call gives the same bits. A feature does not depend on the other crops of its batch; the batch size changes
    it only by rounding: in float32, which is computed without autocast and TF32, by about 1e-7 of its length on a CPU.

    Args:
        network: is moved to the device, and is in evaluation mode during the call.
        crops: uint8 RGB (N, H, W, 3), on the host, N >= 1.
        device: the device to compute on.
        batch_size: crops per pass, to which mirror images are added; default `default_batch_size`.
        preprocessing: of the network; it also decides whether features of mirror images are computed.
        dtype: `float32`, the reference, or `bfloat16`, which is autocast: 1.3 to 2 times as fast on processors that
            compute it and slower on others, without effect on ONNX models. Features differ by about 1 % of their length
            (docs/models-and-pairs.md has figures).

    Returns:
        float32 (N, 2 F), or (N, F) without mirror images; not normalised.

    Raises:
        UsageError: If the dtype is unknown, or has no effect on the network.
        WeightsError: If a feature is not finite, which the similarity would hide as "different people".
    """
    batches = torch.split(crops, batch_size or default_batch_size(device, preprocessing.mirror))
    remedy = f"use a smaller batch_size{' or device cpu' * device.is_cuda}"
    return np.concatenate(list(embed_batches(network, batches, device, preprocessing, dtype, remedy)))


def embed_batches(
    network: nn.Module,
    batches: Iterable[Tensor],
    device: Device,
    preprocessing: Preprocessing = PRESETS["sphereface"],
    dtype: Dtype = "float32",
    remedy: str = "",
) -> Iterator[np.ndarray]:
    """Compute the features of one batch of crops after the other; see `embed_crops`.

    A GPU gets the next batch before the features of the last one are waited for, so that it computes while they are
    used; two batches are in memory, independent of their number. The network is in evaluation mode until the iterator
    ends.

    Args:
        network: as in `embed_crops`, like the arguments that follow `batches`.
        batches: uint8 RGB (B, H, W, 3) each, on the host.
        device: the device to compute on.
        preprocessing: of the network.
        dtype: `float32` or `bfloat16`.
        remedy: advice for the message about a lack of memory; by default about the device alone.

    Raises:
        UsageError: If the dtype is unknown, or has no effect on the network.
        SfplusError: If the memory of the device is not enough.
        WeightsError: If a feature is not finite.
    """
    if dtype not in get_args(Dtype):
        raise UsageError(f"no dtype is called '{dtype}'", where="dtype", remedy="use float32 or bfloat16")
    if dtype != "float32" and next(network.parameters(), None) is None:
        reason = f"{dtype} has no effect on a model that does not compute in torch, such as an ONNX file"
        raise UsageError(reason, where="dtype", remedy="use float32")
    was_training = network.training
    device.move(network).eval()
    try:
        fetched: deque[Callable[[], Tensor]] = deque()
        for batch in batches:
            with memory_errors(remedy or ("use device cpu" if device.is_cuda else "close other programs")):
                features = _compute_features(network, device.put(batch), device, preprocessing, dtype)
                fetched.append(device.fetch(features))
            if len(fetched) > 1:
                yield _to_finite(fetched.popleft()())
        if fetched:
            yield _to_finite(fetched.popleft()())
    finally:
        network.train(was_training)


def _to_finite(features: Tensor) -> np.ndarray:
    array = features.numpy()
    if not np.isfinite(array).all():
        remedy = "use another model, or check the description of its input"
        raise WeightsError("computes features that are not finite numbers", where="model", remedy=remedy)
    return array


@torch.inference_mode()
def _compute_features(
    network: nn.Module, crops: Tensor, device: Device, preprocessing: Preprocessing, dtype: Dtype
) -> Tensor:
    """Compute the features of crops (N, H, W, 3) on the device, without waiting for it."""
    autocast = torch.autocast(device.torch.type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
    mirror = preprocessing.mirror
    with exact_arithmetic(device.torch.type), autocast:
        crops = torch.cat([crops, crops.flip(2)]) if mirror else crops
        features = network(normalize_crops(crops, preprocessing)).float()
    return torch.cat(features.chunk(2), dim=1) if mirror else features
