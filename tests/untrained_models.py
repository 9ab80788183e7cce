"""Small models with random weights, which are enough for most tests."""

from __future__ import annotations

from pathlib import Path

import torch

from sfplus.networks import create
from sfplus.weights.model_folder import save_model


def save_untrained(
    folder: Path, *, feature_size: int = 16, seed: int = 0, head: torch.nn.Module | None = None, **config: object
) -> None:
    """Write a SphereFace network of few channels to a model folder, whose config.json also gets `config`."""
    torch.manual_seed(seed)
    shape = {"network": "sphereface4", "feature_size": feature_size, "width": 0.125, "template": "sphereface-112x96"}
    network = create("sphereface4", feature_size=feature_size, width=0.125)
    save_model(folder, network, shape | config, head=head)
