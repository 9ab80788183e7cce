"""Functions that heads share: angles, margins, and changes of the true class's logit."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def margin_cosine(cosine: Tensor, m: int) -> Tensor:
    """Return psi(theta) = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi), which falls from 1 to 1 - 2m on [0, pi].

    Evaluated as the Chebyshev polynomial T_m of the cosine (SphereFace paper, section 3.2; for m up to 4 as in
    margin_inner_product_layer.cpp), so that no arc cosine spoils the gradient near 0 and pi. The branches meet at
    extrema of T_m, which have slope 0: value and derivative are exact at every point of [-1, 1].

    Args:
        cosine: cos(theta) in [-1, 1], any shape.
        m: Margin, an integer of at least 1.

    Raises:
        ValueError: If m is not such an integer.
    """
    check_integer_margin(m, "margin_cosine")
    branch, previous, value = _branch(cosine, m), torch.ones_like(cosine), cosine
    for _ in range(m - 1):
        previous, value = value, 2 * cosine * value - previous
    return (1 - 2 * (branch % 2)) * value - 2 * branch


def margin_slope(cosine: Tensor, m: int) -> Tensor:
    """Return the derivative of `margin_cosine`, d psi / d cos = (-1)^k m U_{m-1}(cos)."""
    branch, previous, value = _branch(cosine, m), torch.zeros_like(cosine), torch.ones_like(cosine)
    for _ in range(m - 1):
        previous, value = value, 2 * cosine * value - previous
    return (1 - 2 * (branch % 2)) * m * value


def _branch(cosine: Tensor, m: int) -> Tensor:
    """Return k = floor(m theta / pi), at most m - 1: the number of angles pi/m, 2 pi/m, ... below theta."""
    angles = torch.arange(1, m, device=cosine.device, dtype=cosine.dtype) * (math.pi / m)
    return (cosine.detach().unsqueeze(-1) < angles.cos()).sum(-1)


def check_integer_margin(m: int, owner: str) -> None:
    """Raise ValueError, which names the owner, unless the margin m is an integer of at least 1."""
    if not isinstance(m, int) or m < 1:
        raise ValueError(f"the margin m of {owner} must be an integer of at least 1, not {m}")


def angle(cosine: Tensor) -> Tensor:
    """Return the arc cosine with a finite slope: cosines are clamped to 4 eps (float32: 0.001 rad) from 1 and -1."""
    limit = 1 - 4 * torch.finfo(cosine.dtype).eps
    return cosine.clamp(-limit, limit).acos()


def target_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (M,) of the true classes out of (M, C)."""
    return logits[torch.arange(len(labels), device=labels.device), labels]


def add_to_target(logits: Tensor, labels: Tensor, change: Tensor) -> Tensor:
    """Add `change` (M,) to the true classes' logits (M, C) in place; the gradient of all logits passes unchanged."""
    return logits.scatter_add_(1, labels[:, None], change[:, None])


def unit_features(features: Tensor) -> Tensor:
    """Divide features (M, d) by their length; features shorter than 1e-12 become 0 and have gradient 0.

    `energy.directions` normalises rows too, but keeps directions of any length above 0: a gradient of 1 / length
    would overflow here, where the features of a batch may be anything.
    """
    length: Tensor = features.norm(dim=1, keepdim=True)
    return features / length.masked_fill(length < 1e-12, math.inf)


def snapshot(values: Tensor) -> Tensor:
    """Return values that were computed from state which this forward pass changes, safe for a compiled backward.

    torch.compile may compute a value again in backward instead of keeping it, from the inputs of the forward pass. By
    then a counter or a weight that forward changes in place holds the next value. An operator that torch.compile does
    not look into is never computed again. Without torch.compile the values are returned as they are.
    """
    if not torch.compiler.is_compiling():
        return values
    copied: Tensor = _snapshot(values)
    return copied


@torch.library.custom_op("sfplus::snapshot", mutates_args=())
def _snapshot(values: Tensor) -> Tensor:
    return values.clone()


@_snapshot.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)
