"""Networks that turn crops into features."""

from __future__ import annotations

import difflib

from torch import nn

from sfplus.errors import UsageError
from sfplus.networks.sphereface import UNITS, SphereFaceNet, to_input

NETWORKS: tuple[str, ...] = tuple(UNITS)


def create(name: str, *, feature_size: int = 512, width: float = 1.0) -> nn.Module:
    """Build a freshly initialised network (N, 3, 112, 96) -> (N, feature_size); draws from torch's generator.

    Args:
        name: one of `NETWORKS`.
        feature_size: length of a feature.
        width: multiplier of all channel counts; below 1 for small computers.

    Raises:
        UsageError: no network has this name, or a size is not positive.
    """
    if name not in UNITS:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(NETWORKS)}"
        raise UsageError(f"no network is called '{name}'", where="network", remedy=remedy)
    if feature_size < 1 or not 0 < width <= 16:
        raise UsageError(
            f"feature_size {feature_size} and width {width} make no network",
            where="network",
            remedy="use a feature_size of 1 or more and a width between 0 and 16",
        )
    return SphereFaceNet(UNITS[name], feature_size, width)


__all__ = ["NETWORKS", "create", "to_input"]
