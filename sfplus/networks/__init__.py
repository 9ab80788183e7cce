"""Networks that turn crops into features."""

from __future__ import annotations

import difflib
import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from sfplus.errors import UsageError
from sfplus.networks.backbones import PREFIXES, backbone
from sfplus.networks.sphereface import INPUTS, UNITS, SphereFaceNet, to_input

NETWORKS: tuple[str, ...] = tuple(UNITS)
BLOCKS = ("original", "modern")


def create(
    name: str,
    *,
    feature_size: int = 512,
    width: float = 1.0,
    input: str = "112x96",
    block: str = "original",
    batch_norm: bool = False,
    weights: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Build a network (N, 3, height, width) -> (N, feature_size): fresh, from torch's generator, or with weights.

    Args:
        name: one of `NETWORKS`, or `timm:NAME` or `torchvision:NAME` for a network of these libraries.
        feature_size: length of a feature.
        width: multiplier of all channel counts; below 1 for small computers.
        input: size of a crop, height x width: `112x96` or `112x112`.
        block: residual units as in the paper, `original`, or as in OpenSphere, `modern`; see `SphereFaceNet`.
        batch_norm: batch normalisation after each layer.
        weights: a `.caffemodel`, an `.onnx` file of `sfplus convert`, a folder with a model or its `.safetensors`; the
            network must be what the options say, and is then in evaluation mode. `load_model` finds the options itself.

    Raises:
        UsageError: no network has this name, or an option is out of range.
        WeightsError: the weights cannot be read or do not fit; the message names the first tensor that differs.
        DependencyError: timm is asked for and not installed.
    """
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
        with nullcontext() if weights is None else torch.device("meta"):
            network = SphereFaceNet(UNITS[name], feature_size, width, input, block, batch_norm)
    else:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(NETWORKS)}"
        raise UsageError(f"no network is called '{name}'", where="network", remedy=remedy)
    if weights is not None:
        from sfplus.weights.checkpoint import load_weights

        load_weights(network, weights, name)
    return network  # type: ignore[no-any-return]


__all__ = ["BLOCKS", "INPUTS", "NETWORKS", "create", "to_input"]
