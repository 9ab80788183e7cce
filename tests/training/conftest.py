"""Fixtures of the tiny training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import SETTINGS, State, Train, run, write_crops

from sfplus.datasets.crops import CropDataset
from sfplus.recipes.settings.train import TrainSettings


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> CropDataset:
    return write_crops(tmp_path_factory.mktemp("crops"))


@pytest.fixture
def train(crops: CropDataset) -> Train:
    """Call with a folder and changed settings: the state after training, and the summary."""

    def call(folder: Path, on_step: Any = None, **changes: Any) -> tuple[State, dict[str, float]]:
        return run(crops, folder, TrainSettings.model_validate({**SETTINGS.model_dump(), **changes}), on_step)

    return call


@pytest.fixture(scope="session")
def undisturbed(crops: CropDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[State, Path]:
    """The state and the folder of a run of `SETTINGS` that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(crops, folder, SETTINGS)[0], folder
