"""Networks that turn crops into features."""

from __future__ import annotations

import os
from contextlib import nullcontext

import torch
from torch import nn

from sfplus.networks.architectures import BLOCKS, NETWORKS, build_network
from sfplus.networks.sphereface import INPUTS, to_input


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
    options = {"feature_size": feature_size, "width": width, "input": input, "block": block, "batch_norm": batch_norm}
    if weights is None:
        return build_network(name, **options)  # type: ignore[arg-type]
    from sfplus.weights.loading import load_weights  # which builds networks itself

    with torch.device("meta") if name in NETWORKS else nullcontext():
        network = build_network(name, **options)  # type: ignore[arg-type]
    load_weights(network, weights, name)
    return network


__all__ = ["BLOCKS", "INPUTS", "NETWORKS", "create", "to_input"]
