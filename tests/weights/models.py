"""Small networks whose features depend on all weights, and crops for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sfplus.networks import create
from sfplus.networks.sphereface import SphereFaceNet

OPTIONS: list[dict[str, Any]] = [
    {},
    {"input": "112x112"},
    {"block": "modern"},
    {"batch_norm": True},
    {"input": "112x112", "block": "modern", "batch_norm": True},
]


def network(name: str = "sphereface20", width: float = 0.125, feature_size: int = 24, **options: Any) -> SphereFaceNet:
    """Create a network with weights of the usual size, non-zero biases, different slopes and realistic statistics."""
    torch.manual_seed(0)
    net = create(name, width=width, feature_size=feature_size, **options)
    assert isinstance(net, SphereFaceNet)
    for key, tensor in net.state_dict().items():
        if key.startswith("conv") and key.endswith("weight"):
            torch.nn.init.kaiming_uniform_(tensor, a=1)
        elif key.endswith("bias") or key.endswith("running_mean"):
            torch.nn.init.normal_(tensor, std=0.1)
        elif key.endswith("running_var") or key.startswith("relu"):
            torch.nn.init.uniform_(tensor, 0.2, 0.8)
    return net.eval()


def crops(count: int, height: int = 112, width: int = 96) -> np.ndarray:
    """Return random uint8 RGB crops (count, height, width, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
