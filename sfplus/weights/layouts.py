"""Conversion of SphereFace weights of other projects to the names of this one, and inference of their network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfplus.alignment.templates import TEMPLATE_OF_SIZE
from sfplus.networks import DEFAULT_INPUT, parse_size
from sfplus.networks.sphereface import CHANNELS, NETWORKS
from sfplus.weights.state_dicts import strip_wrappers

CONVOLUTION = re.compile(r"conv\d_\d+\.weight")
_SFNET = re.compile(r"layer(\d)\.(\d+)\.(conv|bn)([12])\.(\w+)")
_SPHERENET = re.compile(r"layer(\d)\.(?:0|([1-9]\d*)\.block\.([01]))\.([01])\.(\w+)")
_ANCHORS = ("conv1_1.weight", "layer1.0.conv1.weight", "layer1.0.0.weight")  # the first layer in each layout


@dataclass(frozen=True)
class ImportedWeights:
    """Weights under the names of this project.

    Attributes:
        tensors: as in `SphereFaceNet.state_dict()`; tensors without a counterpart keep their names.
        head: the classifier (classes, features), if the file has one.
        layout: the project whose names the file had.
        block: the residual units that go with this layout.
    """

    tensors: dict[str, Tensor]
    head: Tensor | None = None
    layout: str = "sfplus"
    block: str = "original"


def from_pytorch(tensors: Mapping[str, Tensor]) -> ImportedWeights:
    """Rename the tensors of a PyTorch state dict, after recognising whose it is.

    clcarwin's sphere20a has the names of this project and a classifier `fc6.weight` of (features, classes).
    OpenSphere's SFNet reads RGB over 127.5 and has ReLUs: the order of channels and the scale go into `conv1_1.weight`,
    and each ReLU becomes a PReLU of slope 0 (which training would change), so that the network computes the same
    features from the input of this project. OpenSphere trained its networks without batch normalisation with the
    original block (`sfnet20_deprecated` in its configs) and those with it with the modern one.
    yakhyo's SphereNet (face-recognition, models/sphereface.py) has the original block with PReLUs, and the same input
    as OpenSphere's.

    Prefixes that wrappers add are removed; tensors outside of the network's prefix are left out.
    """
    tensors = _within_prefix(strip_wrappers(tensors))
    if "layer1.0.conv1.weight" in tensors:
        return _from_opensphere(tensors)
    if "layer1.0.0.weight" in tensors and "layer1.0.1.weight" in tensors:
        return _from_yakhyo(tensors)
    head = tensors.pop("fc6.weight", None)
    if head is None:
        return ImportedWeights(tensors)
    return ImportedWeights(tensors, head.T.contiguous() if head.dim() == 2 else head, "clcarwin")


def _within_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that share the prefix of the first layer, without it; all of them if there is none."""
    for name in tensors:
        for anchor in _ANCHORS:
            if name.endswith(f".{anchor}"):
                prefix = name.removesuffix(anchor)
                return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return tensors


def _from_opensphere(tensors: Mapping[str, Tensor]) -> ImportedWeights:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _SFNET.fullmatch(name):
            stage, block, kind, index, parameter = match.groups()
            layer = f"{stage}_{2 * int(block) - 1 + int(index) if int(block) else index}"
            renamed[f"{kind}{layer}.{parameter}"] = tensor
            if kind == "conv" and parameter == "weight":
                renamed[f"relu{layer}.weight"] = torch.zeros(tensor.shape[:1])
        else:
            renamed[re.sub(r"^features\.", "bn5.", re.sub(r"^fc\.", "fc5.", name))] = tensor
    block = "modern" if "bn1_1.weight" in renamed else "original"
    return ImportedWeights(_fold_input(renamed), layout="opensphere", block=block)


def _from_yakhyo(tensors: Mapping[str, Tensor]) -> ImportedWeights:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _SPHERENET.fullmatch(name):
            stage, block, index, kind, parameter = match.groups()
            layer = f"{stage}_{2 * int(block) + int(index) if block else 1}"
            renamed[f"{('conv', 'relu')[int(kind)]}{layer}.{parameter}"] = tensor
        else:
            renamed[re.sub(r"^fc\.", "fc5.", name)] = tensor
    return ImportedWeights(_fold_input(renamed), layout="yakhyo")


def _fold_input(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make a network for RGB, (x - 127.5) / 127.5, one for BGR, (x - 127.5) / 128, by changing its first layer."""
    first = tensors["conv1_1.weight"]
    if first.dim() == 4:
        tensors["conv1_1.weight"] = (first.double().flip(1) * (128 / 127.5)).float()
    return tensors


def infer_config(weights: ImportedWeights, network: str = "", block: str = "") -> dict[str, Any]:
    """Infer the config of the most similar SphereFace network from the names and shapes of weights.

    Args:
        weights: weights of a SphereFace network.
        network: name of the network; default: the one with the most names in common.
        block: kind of the residual units; default: that of the layout.

    Returns:
        `network`, `feature_size`, `width` and the options that differ from their defaults. The weights may still not
        fit this network.
    """
    shapes = {name: tuple(tensor.shape) or (0,) for name, tensor in weights.tensors.items()}
    convolutions = set(filter(CONVOLUTION.fullmatch, shapes))
    linear = shapes.get("fc5.weight", (512, 0))
    channels = [shapes.get(f"conv{stage}_1.weight", (0,))[0] for stage in (1, 2, 3, 4)]
    config = {
        "network": network or min(NETWORKS, key=lambda name: len(convolutions ^ _convolutions(NETWORKS[name]))),
        "feature_size": linear[0],
        "width": _infer_width(channels),
    }
    for size in TEMPLATE_OF_SIZE:
        height, width = parse_size(size)
        if size != DEFAULT_INPUT and linear[1:] == ((height // 16) * (width // 16) * channels[3],):
            config["input"] = size
    if (block or weights.block) == "modern":
        config["block"] = "modern"
    if any(name.startswith("bn") for name in shapes):
        config["batch_norm"] = True
    return config


def _convolutions(units: tuple[int, ...]) -> set[str]:
    return {f"conv{stage}_{i}.weight" for stage, count in enumerate(units, start=1) for i in range(1, 2 * count + 2)}


def _infer_width(channels: list[int]) -> float:
    """Return a multiplier that rounds to these channels, preferably an exact quotient; stages of 0 are ignored."""
    stages = [(count, full) for count, full in zip(channels, CHANNELS, strict=True) if count]
    low = max([(count - 0.5) / full for count, full in stages if count > 1], default=0)
    high = min([(count + 0.5) / full for count, full in stages], default=2)
    quotients = [count / full for count, full in stages]
    return next((width for width in quotients if low < width < high), (low + high) / 2)
