"""A tiny training run of six people with eight random crops each, for tests and their subprocesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.hypersphere import ShardedHead
from sfplus.networks import create
from sfplus.recipes.settings.energy import EnergySettings
from sfplus.recipes.settings.heads import HEAD_SETTINGS
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import OnStep
from sfplus.training.face_task import fit
from sfplus.training.head_ops import create_head
from sfplus.training.optimizer import create_caffe_sgd
from sfplus.training.train_state import Stateful, TrainState, collect_state

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
    ProcessGroup(choose_device("cpu"))
    torch.manual_seed(settings.seed)
    network = create(settings.network, feature_size=settings.feature_size, width=settings.width)
    return network, create_head(settings, settings.feature_size, PEOPLE)


def state_of_model(network: torch.nn.Module, head: Any) -> State:
    """Return the state of network and head; a sharded head is gathered, in the first process only."""
    head_state = head.full_state() or {} if isinstance(head, ShardedHead) else head.state_dict()
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()} | {
        f"head.{name}": tensor for name, tensor in head_state.items()
    }


def write_crops(folder: Path) -> CropDataset:
    rng = np.random.default_rng(0)
    paths, labels = [], []
    for person in range(PEOPLE):
        mean = rng.integers(0, 256, (14, 12, 3))
        for number in range(CROPS):
            pixels = np.clip(mean + rng.integers(-40, 41, mean.shape), 0, 255).astype(np.uint8)
            path = folder / f"person {person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((96, 112)).save(path)
            paths.append(path)
            labels.append(person)
    return CropDataset(paths, labels, 112, 96)


def run(
    crops: CropDataset, folder: Path, settings: TrainSettings, on_step: OnStep | None = None
) -> tuple[State, dict[str, float]]:
    """Train the tiny model and return its state and the summary."""
    network, head = tiny_model(settings)
    summary = fit(network, head, crops, settings, folder, choose_device("cpu"), on_step)
    return state_of_model(network, head), summary


Uninterrupted = tuple[State, Path]
"""The state and the folder of a run of `SETTINGS`."""


def is_equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def stop_at(step: int, error: BaseException) -> Any:
    """Return an `on_step` that raises an error after a step."""

    def on_step(done: int, row: dict[str, Any]) -> None:
        if done == step:
            raise error

    return on_step


def collected(module: torch.nn.Module, optimizers: Mapping[str, Stateful]) -> TrainState:
    """Return the state of modules and optimizers in the first process."""
    state = collect_state(module, optimizers)
    assert state is not None
    return state


def small_model() -> tuple[torch.nn.Module, torch.optim.SGD]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.PReLU(4), torch.nn.BatchNorm2d(4))
    return module, create_caffe_sgd(module, lr=0.1, momentum=0.9, weight_decay=1e-3)


def advance(module: torch.nn.Module, optimizer: torch.optim.SGD) -> None:
    optimizer.zero_grad()
    module(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()
