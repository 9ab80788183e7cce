"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest
from unusual_photos import write_unusual_photos


@pytest.fixture(scope="session")
def unusual_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of all formats and damaged files."""
    folder = tmp_path_factory.mktemp("unusual") / "in"
    write_unusual_photos(folder)
    return folder


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model."""
    import torch

    from sfplus.networks import create
    from sfplus.weights.model_folder import save_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    shape = {"network": "sphereface4", "feature_size": 16, "width": 0.125}
    network = create(shape["network"], feature_size=16, width=0.125)
    save_model(folder, network, {**shape, "template": "sphereface-112x96"})
    return folder
