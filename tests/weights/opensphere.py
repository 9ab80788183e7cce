"""OpenSphere's SFNet, as its authors describe it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Unit(nn.Module):
    """A residual unit of OpenSphere, with a ReLU after the sum or, in the networks called deprecated, before it."""

    def __init__(self, channels: int, norm: bool, deprecated: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=not norm) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(2))
        self.deprecated = deprecated

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return y.relu() + x if self.deprecated else (y + x).relu()


class First(nn.Module):
    """The convolution of stride 2 at the start of a stage."""

    def __init__(self, in_channels: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 2, 1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).relu()


class SFNet(nn.Module):
    """OpenSphere's SFNet at an eighth of its width, for 112x112 crops, RGB, (x - 127.5) / 127.5."""

    def __init__(self, units: tuple[int, ...], norm: bool, deprecated: bool) -> None:
        super().__init__()
        sizes = (3, 8, 16, 32, 64)
        for stage, count in enumerate(units, start=1):
            channels = sizes[stage]
            parts = [First(sizes[stage - 1], channels, norm), *(Unit(channels, norm, deprecated) for _ in range(count))]
            self.add_module(f"layer{stage}", nn.Sequential(*parts))
        self.fc = nn.Linear(64 * 49, 24)
        self.features = nn.BatchNorm1d(24) if norm else nn.Identity()

    def forward(self, crops: np.ndarray) -> Tensor:
        x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[operator]
        return self.features(self.fc(x.flatten(1)))


def sfnet(units: tuple[int, ...] = (0, 1, 2, 0), norm: bool = False, deprecated: bool = True) -> SFNet:
    torch.manual_seed(0)
    net = SFNet(units, norm, deprecated)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean") or name.endswith("bias"):
            nn.init.normal_(tensor, std=0.1)
        elif name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.3, 1)
    return net.eval()
