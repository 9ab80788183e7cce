"""The SphereFace networks of 4, 10, 20, 36 and 64 layers."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from sfplus.networks.normalize import normalize_images

CHANNELS = (64, 128, 256, 512)
UNITS = {
    "sphereface4": (0, 0, 0, 0),
    "sphereface10": (0, 1, 2, 0),
    "sphereface20": (1, 2, 4, 1),
    "sphereface36": (2, 4, 8, 2),
    "sphereface64": (3, 8, 16, 3),
}
"""Residual units of the four stages (SphereFace paper, table 2; sphereface_model.prototxt for 20 and 64)."""


INPUTS = {"112x96": (112, 96), "112x112": (112, 112)}
"""Sizes of a crop, height x width: SphereFace's, and the one of insightface and OpenSphere."""


class SphereFaceNet(nn.Module):
    """Four stages of convolutions and a linear layer: (N, 3, 112, 96) -> (N, feature_size).

    Each stage is a 3x3 convolution of stride 2 and a PReLU, then residual units
    `x + PReLU(conv(PReLU(conv(x))))`. No normalisation, no pooling, nothing after a sum or after `fc5`. Submodules
    carry the prototxt's layer names (`conv2_3`, `relu2_3`, `fc5`).

    Initialisation (prototxt): U(-sqrt(3/fan_in), sqrt(3/fan_in)) and zero bias for `conv*_1` and `fc5`; N(0, 0.01)
    for the convolutions of the units, whose bias is 0 and never trained; PReLU slopes 0.25, one per channel.

    Args:
        units: residual units per stage.
        feature_size: length of a feature.
        width: multiplier of the channels 64, 128, 256, 512.
        input: a key of `INPUTS`.
        block: `original`, or `modern`: `PReLU(x + conv(PReLU(conv(x))))` (OpenSphere, sfnet.py).
        batch_norm: a `bn*` after each convolution, which then has no bias, and `bn5` after `fc5` (OpenSphere).

    Attributes:
        options: those of `input`, `block` and `batch_norm` that are not as in the prototxt.
    """

    def __init__(
        self,
        units: tuple[int, ...],
        feature_size: int = 512,
        width: float = 1.0,
        input: str = "112x96",
        block: str = "original",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        given = {"input": (input, "112x96"), "block": (block, "original"), "batch_norm": (batch_norm, False)}
        self.options: dict[str, Any] = {key: value for key, (value, usual) in given.items() if value != usual}
        self.units = units
        self._modern = block == "modern"
        before = 3
        for stage, (count, full) in enumerate(zip(units, CHANNELS, strict=True), start=1):
            channels = max(1, round(full * width))
            for layer in range(1, 2 * count + 2):
                stride = 2 if layer == 1 else 1
                conv = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=not batch_norm)
                _initialise(conv, residual=layer > 1)
                self.add_module(f"conv{stage}_{layer}", conv)
                if batch_norm:
                    self.add_module(f"bn{stage}_{layer}", nn.BatchNorm2d(channels))
                self.add_module(f"relu{stage}_{layer}", nn.PReLU(channels, init=0.25))
                before = channels
        height, wide = INPUTS[input]
        self.fc5 = nn.Linear(before * (height // 16) * (wide // 16), feature_size)
        _initialise(self.fc5, residual=False)
        self.bn5 = nn.BatchNorm1d(feature_size) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Features of normalised BGR crops: (N, 3, 112, 96) float -> (N, feature_size)."""
        for stage, count in enumerate(self.units, start=1):
            x = self._relu(stage, 1, self._conv(stage, 1, x))
            for first in range(2, 2 * count + 1, 2):
                y = self._conv(stage, first + 1, self._relu(stage, first, self._conv(stage, first, x)))
                x = self._relu(stage, first + 1, x + y) if self._modern else x + self._relu(stage, first + 1, y)
        x = self.fc5(x.flatten(1))
        return x if self.bn5 is None else self.bn5(x)

    def _conv(self, stage: int, layer: int, x: Tensor) -> Tensor:
        name = f"{stage}_{layer}"
        x = self._modules[f"conv{name}"](x)  # type: ignore[misc]
        norm = self._modules.get(f"bn{name}")
        return x if norm is None else norm(x)

    def _relu(self, stage: int, layer: int, x: Tensor) -> Tensor:
        return self._modules[f"relu{stage}_{layer}"](x)  # type: ignore[misc,no-any-return]


def _initialise(layer: nn.Conv2d | nn.Linear, *, residual: bool) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias).requires_grad_(not residual)
    if layer.weight.is_meta:  # nothing to draw; asking torch for it would import its compiler, most of a second
        return
    if residual:
        nn.init.normal_(layer.weight, std=0.01)
    else:
        bound = math.sqrt(3 / math.prod(layer.weight.shape[1:]))
        nn.init.uniform_(layer.weight, -bound, bound)


def to_input(crops: Tensor) -> Tensor:
    """Normalise crops for a face network: BGR, `(x - 127.5) / 128` (sphereface_model.prototxt).

    Args:
        crops: uint8 RGB (N, H, W, 3) on any device.

    Returns:
        float32 (N, 3, H, W) on the same device, in channels_last memory format.
    """
    return normalize_images(crops, bgr=True)
