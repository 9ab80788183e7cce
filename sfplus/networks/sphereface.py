"""The SphereFace networks of 4, 10, 20, 36 and 64 layers."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sfplus.errors import UsageError

CHANNELS = (64, 128, 256, 512)
BLOCKS = ("original", "modern")

NETWORKS = {
    "sphereface4": (0, 0, 0, 0),
    "sphereface10": (0, 1, 2, 0),
    "sphereface20": (1, 2, 4, 1),
    "sphereface36": (2, 4, 8, 2),
    "sphereface64": (3, 8, 16, 3),
    "sphereface64-caffe": (3, 7, 16, 3),
}
"""Residual units of the four stages (SphereFace paper, table 2; OpenSphere, sfnet.py).

The released prototxt of 20 layers has the units of the paper; that of 64 layers (train/model_lib/Sphereface-64) has one
unit less in the second stage, 62 convolutions in all: `sphereface64-caffe`.
"""


def build(
    name: str,
    *,
    feature_size: int,
    crop_size: tuple[int, int],
    width: float = 1.0,
    block: str = "original",
    batch_norm: bool = False,
) -> SphereFaceNet:
    """Create a SphereFace network with fresh weights.

    Args:
        name: a key of `NETWORKS`.
        feature_size: length of a feature.
        crop_size: height and width of the crops, pixels.
        width: multiplier of the channels, above 0 and at most 16; below 1 for small computers.
        block: residual units as in the paper, `original`, or as in OpenSphere, `modern`; see `SphereFaceNet`.
        batch_norm: batch normalisation after each layer.

    Raises:
        UsageError: If an option is out of range.
    """
    if not 0 < width <= 16:
        raise UsageError(f"width must be above 0 and at most 16, not {width}", where="network")
    if block not in BLOCKS:
        raise UsageError(f"'{block}' is unknown", where="block", remedy=f"use one of {', '.join(BLOCKS)}")
    return SphereFaceNet(NETWORKS[name], feature_size, crop_size, width, block, batch_norm)


class SphereFaceNet(nn.Module):
    """Four stages of convolutions and a linear layer: (N, 3, 112, 96) -> (N, feature_size).

    Each stage is a 3x3 convolution of stride 2 and a PReLU, then residual units
    `x + PReLU(conv(PReLU(conv(x))))`. There is no normalisation and no pooling, and nothing follows a sum or `fc5`.
    Submodules have the layer names of the prototxt (`conv2_3`, `relu2_3`, `fc5`).

    Initialisation (prototxt): U(-sqrt(3/fan_in), sqrt(3/fan_in)) and zero bias for `conv*_1` and `fc5`; N(0, 0.01)
    for the convolutions of the units, whose bias is 0 and never trained; PReLU slopes 0.25, one per channel.

    Args:
        units: number of residual units of each stage.
        feature_size: length of a feature.
        crop_size: height and width of the crops, pixels, multiples of 16.
        width: multiplier of the channels 64, 128, 256, 512.
        block: `original`, or `modern`: `PReLU(x + conv(PReLU(conv(x))))` (OpenSphere, sfnet.py).
        batch_norm: a `bn*` after each convolution, which then has no bias, and `bn5` after `fc5` (OpenSphere).

    Attributes:
        units: as passed.
        crop_size: as passed.
        modern: whether the blocks are modern.
        batch_norm: as passed.
    """

    def __init__(
        self,
        units: tuple[int, ...],
        feature_size: int = 512,
        crop_size: tuple[int, int] = (112, 96),
        width: float = 1.0,
        block: str = "original",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.units, self.crop_size, self.modern, self.batch_norm = units, crop_size, block == "modern", batch_norm
        in_channels = 3
        for stage, (count, full_channels) in enumerate(zip(units, CHANNELS, strict=True), start=1):
            channels = max(1, round(full_channels * width))
            for layer in range(1, 2 * count + 2):
                stride = 2 if layer == 1 else 1
                conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=not batch_norm)
                _initialise(conv, residual=layer > 1)
                self.add_module(f"conv{stage}_{layer}", conv)
                if batch_norm:
                    self.add_module(f"bn{stage}_{layer}", nn.BatchNorm2d(channels))
                self.add_module(f"relu{stage}_{layer}", nn.PReLU(channels, init=0.25))
                in_channels = channels
        height, width_pixels = crop_size
        self.fc5 = nn.Linear(in_channels * (height // 16) * (width_pixels // 16), feature_size)
        _initialise(self.fc5, residual=False)
        self.bn5 = nn.BatchNorm1d(feature_size) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of normalised BGR crops: (N, 3, 112, 96) float -> (N, feature_size)."""
        for stage, count in enumerate(self.units, start=1):
            x = self._relu(stage, 1, self._conv(stage, 1, x))
            for layer in range(2, 2 * count + 1, 2):
                y = self._conv(stage, layer + 1, self._relu(stage, layer, self._conv(stage, layer, x)))
                x = self._relu(stage, layer + 1, x + y) if self.modern else x + self._relu(stage, layer + 1, y)
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
    if layer.weight.is_meta:  # drawing into a meta tensor would import torch's compiler, which takes most of a second
        return
    if residual:
        nn.init.normal_(layer.weight, std=0.01)
    else:
        bound = math.sqrt(3 / math.prod(layer.weight.shape[1:]))
        nn.init.uniform_(layer.weight, -bound, bound)
