"""Networks by their names, with fresh weights."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from sfplus.errors import UsageError
from sfplus.networks.backbones import PREFIXES, backbone
from sfplus.networks.sphereface import INPUTS, UNITS, SphereFaceNet

NETWORKS: tuple[str, ...] = tuple(UNITS)
BLOCKS = ("original", "modern")


def build_network(
    name: str,
    *,
    feature_size: int = 512,
    width: float = 1.0,
    input: str = "112x96",
    block: str = "original",
    batch_norm: bool = False,
) -> nn.Module:
    """What `networks.create` builds when it is given no weights; the options and errors are described there."""
    if feature_size < 1 or not 0 < width <= 16:
        raise UsageError(
            f"feature_size {feature_size} and width {width} make no network",
            where="network",
            remedy="use a feature_size of 1 or more and a width between 0 and 16",
        )
    for key, value, known in (("input", input, tuple(INPUTS)), ("block", block, BLOCKS)):
        if value not in known:
            raise UsageError(f"'{value}' is unknown", where=key, remedy=f"use one of {', '.join(known)}")
    network: Any
    if name.startswith(PREFIXES):
        if width != 1 or block != "original" or batch_norm:
            raise UsageError("width, block and batch_norm are for the SphereFace networks", where=name)
        network = backbone(name, feature_size, *INPUTS[input])
        network.options = {"input": input} if input != "112x96" else {}
    elif name in UNITS:
        network = SphereFaceNet(UNITS[name], feature_size, width, input, block, batch_norm)
    else:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(NETWORKS)}"
        raise UsageError(f"no network is called '{name}'", where="network", remedy=remedy)
    return network  # type: ignore[no-any-return]
