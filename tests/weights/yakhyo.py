"""The SphereNet of yakhyo/face-recognition, as its author describes it: PReLUs before the sum."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def layer(in_channels: int, channels: int, stride: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, stride, 1, bias=bias), nn.PReLU(channels))


class Unit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*(layer(channels, channels, 1, bias=False) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + x


class SphereNet(nn.Module):
    """SphereNet at an eighth of its width, for 112x112 crops, RGB, (x - 127.5) / 127.5."""

    def __init__(self, units: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (3, 8, 16, 32, 64)
        for stage, count in enumerate(units, start=1):
            parts = [layer(sizes[stage - 1], sizes[stage], 2, bias=True), *(Unit(sizes[stage]) for _ in range(count))]
            self.add_module(f"layer{stage}", nn.Sequential(*parts))
        self.fc = nn.Linear(64 * 49, 24)

    def forward(self, crops: np.ndarray) -> Tensor:
        x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # type: ignore[operator]
        return self.fc(x.flatten(1))


def spherenet(units: tuple[int, ...] = (1, 2, 4, 1)) -> SphereNet:
    torch.manual_seed(0)
    net = SphereNet(units)
    for name, tensor in net.state_dict().items():
        if name.endswith("bias"):
            nn.init.normal_(tensor, std=0.1)
        elif tensor.dim() == 1:  # slopes
            nn.init.uniform_(tensor, 0.1, 0.8)
        else:
            nn.init.kaiming_uniform_(tensor, a=1)
    return net.eval()
