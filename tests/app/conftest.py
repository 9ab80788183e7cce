"""Fixtures of the tests of the app: a model with a decision rule, and the server without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfplus.app.comparison import Comparison
from sfplus.app.uploads import UploadReader
from sfplus.cli.group import group_photos
from sfplus.embedder import Embedder
from sfplus.networks import create
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.recipes.steps import UserModel
from sfplus.verification.decision import DecisionRule
from sfplus.weights.model_folder import save_model


@pytest.fixture(scope="session")
def decided_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with 100 scores of each kind, from -1 to 1 and from 0 to 1."""
    folder = tmp_path_factory.mktemp("app") / "model"
    torch.manual_seed(0)
    verification = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}
    config = {"network": "sphereface4", "feature_size": 4, "width": 0.125, "template": "sphereface-112x96"}
    save_model(folder, create("sphereface4", feature_size=4, width=0.125), config | {"verification": verification})
    scores = np.linspace(-1, 1, 100, dtype=np.float32)
    DecisionRule(np.zeros(8, np.float32), np.sqrt((scores + 1) / 2), scores, verification).save(folder)
    return folder


@pytest.fixture(scope="session")
def comparison(decided_model: Path) -> Comparison:
    return Comparison(Embedder(decided_model, "cpu"))


@pytest.fixture(scope="session")
def reader() -> Iterator[UploadReader]:
    with UploadReader() as reader:
        yield reader


@pytest.fixture(scope="session")
def two_faces(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A photo of two drawn people side by side."""
    people: dict[str, Path] = {photo.parent.name: photo for photo in drawn.glob("*/*.jpg")}
    left, right = (Image.open(people[person]) for person in sorted(people)[:2])
    photo = Image.new("RGB", (left.width + right.width, max(left.height, right.height)))
    photo.paste(left, (0, 0))
    photo.paste(right, (left.width, 0))
    path = tmp_path_factory.mktemp("two") / "two faces.png"
    photo.save(path)
    return path


@pytest.fixture(scope="session")
def untrained_app_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model without a threshold."""
    folder = tmp_path_factory.mktemp("app") / "plain"
    config = {"network": "sphereface4", "feature_size": 4, "width": 0.125, "template": "sphereface-112x96"}
    save_model(folder, create("sphereface4", feature_size=4, width=0.125), config)
    return folder


@pytest.fixture(scope="session")
def grouped_once(tmp_path_factory: pytest.TempPathFactory, drawn: Path, decided_model: Path, two_faces: Path) -> Path:
    """The result of `sfplus group` on drawn photos, of which one shows two people and one has gone."""
    root = tmp_path_factory.mktemp("grouped")
    shutil.copytree(drawn, root / "photos")
    shutil.copy(two_faces, root / "photos")
    shutil.copy(two_faces, root / "photos" / "gone.png")
    with (root / "photos" / "gone.png").open("ab") as file:
        file.write(b"another digest")
    group_photos(root / "photos", root / "out", UserModel(str(decided_model)), "cpu", 0.99)
    (root / "photos" / "gone.png").unlink()
    return root


@pytest.fixture
def grouped(grouped_once: Path, tmp_path: Path) -> Path:
    """A copy of it, with a copy of its photos."""
    shutil.copytree(grouped_once, tmp_path / "grouped", symlinks=True)
    folder = tmp_path / "grouped" / "out"
    replace(GroupedPhotos.load(folder), photos=tmp_path / "grouped" / "photos").save()
    return folder
