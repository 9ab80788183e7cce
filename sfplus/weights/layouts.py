"""How others name the weights of SphereFace networks, and which network some weights are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfplus.networks.sphereface import CHANNELS, INPUTS, UNITS

CONVOLUTION = re.compile(r"conv\d_\d+\.weight")
_SFNET = re.compile(r"layer(\d)\.(\d+)\.(conv|bn)([12])\.(\w+)")


@dataclass(frozen=True)
class Layout:
    """Weights under our names.

    Attributes:
        tensors: as in `SphereFaceNet.state_dict()`; whatever else there was keeps its name.
        head: the classifier (classes, features), where the file has one.
        name: whose layout it was.
        block: the residual units, where the layout says it.
    """

    tensors: dict[str, Tensor]
    head: Tensor | None = None
    name: str = "sfplus"
    block: str = "original"


def recognise(tensors: Mapping[str, Tensor]) -> Layout:
    """Bring PyTorch weights under our names.

    clcarwin's sphere20a has our names and a classifier `fc6.weight` of (features, classes). OpenSphere's SFNet reads
    RGB over 127.5 and has ReLUs: channels and scale go into `conv1_1.weight`, and a ReLU is a PReLU of slope 0 (which
    training would move), so that the features are the same, of what all networks here read. Its networks without batch
    normalisation were trained with the original block (`sfnet20_deprecated` in the configs), those with it with the
    modern one.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if "layer1.0.conv1.weight" not in plain:
        head = plain.pop("fc6.weight", None)
        if head is None:
            return Layout(plain)
        return Layout(plain, head.T.contiguous() if head.dim() == 2 else head, "clcarwin")
    ours: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if found := _SFNET.fullmatch(name):
            stage, block, kind, which, leaf = found.groups()
            layer = f"{stage}_{2 * int(block) - 1 + int(which) if int(block) else which}"
            ours[f"{kind}{layer}.{leaf}"] = tensor
            if kind == "conv" and leaf == "weight":
                ours[f"relu{layer}.weight"] = torch.zeros(tensor.shape[:1])
        else:
            ours[re.sub(r"^features\.", "bn5.", re.sub(r"^fc\.", "fc5.", name))] = tensor
    first = ours["conv1_1.weight"]
    if first.dim() == 4:
        ours["conv1_1.weight"] = (first.double().flip(1) * (128 / 127.5)).float()
    return Layout(ours, name="opensphere", block="modern" if "bn1_1.weight" in ours else "original")


def describe(layout: Layout, network: str = "", block: str = "") -> dict[str, Any]:
    """The config of the SphereFace network that the weights are most like, from their names and shapes.

    Args:
        layout: from `recognise`.
        network: its name where it is known; else the one with the most names in common.
        block: of the residual units where it is known.

    Returns:
        `network`, `feature_size`, `width` and the options that are not as usual; the weights may still not fit it.
    """
    shapes = {name: tuple(tensor.shape) or (0,) for name, tensor in layout.tensors.items()}
    have = set(filter(CONVOLUTION.fullmatch, shapes))
    linear = shapes.get("fc5.weight", (512, 0))
    found = {
        "network": network or min(UNITS, key=lambda name: len(have ^ _convolutions(UNITS[name]))),
        "feature_size": linear[0], "width": _width([shapes.get(f"conv{s}_1.weight", (0,))[0] for s in (1, 2, 3, 4)]),
    }  # fmt: skip
    for name, (height, width) in INPUTS.items():
        cells = (height // 16) * (width // 16) * shapes.get("conv4_1.weight", (0,))[0]
        if name != "112x96" and linear[1:] == (cells,):
            found["input"] = name
    if (block or layout.block) == "modern":
        found["block"] = "modern"
    if any(name.startswith("bn") for name in shapes):
        found["batch_norm"] = True
    return found


def _convolutions(units: tuple[int, ...]) -> set[str]:
    return {f"conv{s}_{i}.weight" for s, count in enumerate(units, start=1) for i in range(1, 2 * count + 2)}


def _width(channels: list[int]) -> float:
    """A multiplier that rounds to these channels, the simplest where several do; a stage of 0 channels says nothing."""
    stages = [(count, full) for count, full in zip(channels, CHANNELS, strict=True) if count]
    low = max([(count - 0.5) / full for count, full in stages if count > 1], default=0)
    high = min([(count + 0.5) / full for count, full in stages], default=2)
    exact = [count / full for count, full in stages]
    return next((width for width in exact if low < width < high), (low + high) / 2)
