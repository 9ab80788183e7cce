"""A tiny training run: six made-up people, eight crops each, a small network; for tests and their subprocesses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.hypersphere import ShardedHead
from sfplus.networks import create
from sfplus.recipes.settings.heads import HEAD_SETTINGS
from sfplus.recipes.settings.train import EnergySettings, TrainSettings
from sfplus.training.distributed import Processes
from sfplus.training.engine import OnStep
from sfplus.training.face_task import fit
from sfplus.training.head_ops import create_head

State = dict[str, torch.Tensor]
Train = Callable[..., tuple[State, dict[str, float]]]

PEOPLE, CROPS = 6, 8
SETTINGS = TrainSettings(
    network="sphereface4",
    feature_size=32,
    width=0.125,
    head=HEAD_SETTINGS["asoftmax"](gamma=1.0, lambda_min=2.0),
    energy=EnergySettings(power=2, weight=0.5),
    base_lr=0.01,
    steps=(12,),
    max_iter=20,
    batch_size=10,
    checkpoint_every=6,
    log_every=4,
)


def tiny_model(settings: TrainSettings) -> tuple[torch.nn.Module, Any]:
    Processes(choose_device("cpu"))
    torch.manual_seed(settings.seed)
    network = create(settings.network, feature_size=settings.feature_size, width=settings.width)
    return network, create_head(settings, settings.feature_size, PEOPLE)


def state_of_model(network: torch.nn.Module, head: Any) -> State:
    """All that is trained; a sharded head as a whole, which only the first process has."""
    whole = head.full_state() or {} if isinstance(head, ShardedHead) else head.state_dict()
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()} | {
        f"head.{name}": tensor for name, tensor in whole.items()
    }


def write_crops(folder: Path) -> CropDataset:
    rng = np.random.default_rng(0)
    paths, labels = [], []
    for person in range(PEOPLE):
        looks = rng.integers(0, 256, (14, 12, 3))
        for number in range(CROPS):
            pixels = np.clip(looks + rng.integers(-40, 41, looks.shape), 0, 255).astype(np.uint8)
            path = folder / f"person {person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((96, 112)).save(path)
            paths.append(path)
            labels.append(person)
    return CropDataset(paths, labels, 112, 96)


def run(
    crops: CropDataset, folder: Path, settings: TrainSettings, on_step: OnStep | None = None
) -> tuple[State, dict[str, float]]:
    """Train the tiny model: its state, and the summary."""
    network, head = tiny_model(settings)
    summary = fit(network, head, crops, settings, folder, choose_device("cpu"), on_step)
    return state_of_model(network, head), summary
