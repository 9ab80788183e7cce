"""Fixtures for the tiny training run."""

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
    """Return a function that trains with changed settings and returns the state and the summary."""

    def call(folder: Path, on_step: Any = None, **changes: Any) -> tuple[State, dict[str, float]]:
        return run(crops, folder, TrainSettings.model_validate({**SETTINGS.model_dump(), **changes}), on_step)

    return call


@pytest.fixture(scope="session")
def uninterrupted(crops: CropDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[State, Path]:
    """Return the state and the folder of an uninterrupted run of `SETTINGS`."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run(crops, folder, SETTINGS)[0], folder
