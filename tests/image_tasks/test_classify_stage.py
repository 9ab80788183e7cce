"""The stage `classify` from images on disk to its artefact."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfplus.artifacts.cache import run_stage
from sfplus.artifacts.context import RunContext
from sfplus.errors import DatasetError
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.image_set import ImageSet
from sfplus.io.console import Console
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.weights.model_folder import load_tensors

SMALL: dict[str, Any] = {"network": "cnn6", "width": 4, "max_iter": 4, "steps": [3], "batch_size": 6, "log_every": 1,
                         "test_every": 2}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, label in ((split, label) for split in ("train", "test") for label in ("ant", "bee", "cow")):
        folder = root / split / label
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return RunContext(tmp_path / "work", Console(), "cpu")


def settings(root: Path, **given: Any) -> ClassifySettings:
    data = {"name": "folder", "root": root} | given.pop("data", {})
    return ClassifySettings.model_validate(SMALL | {"data": data} | given)


def test_artefact_is_complete_and_built_once(
    folders: Path, run: RunContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = settings(folders, energy={"mode": "mhe", "power": 0}, seed=3)
    made = run_stage(given.stage, given, {"pictures": ImageSet(given.data, run)}, run)
    result = json.loads((made.folder / "result.json").read_text())
    assert result["accuracy_by_class"].keys() == {"ant", "bee", "cow"}
    assert result["accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_class"].values())))
    assert result["best_accuracy"] >= result["accuracy"] and len(result["energies"]) == 8
    counts = made.manifest["counts"]
    assert (counts["train_images"], counts["test_images"], counts["accuracy"]) == (12, 12, result["accuracy"])
    assert made.manifest["settings"]["data"].keys().isdisjoint({"root", "download"})
    for name in ("curves.png", "history.jsonl", "model.safetensors"):
        assert (made.folder / name).stat().st_size > 100
    about = json.loads((made.folder / "config.json").read_text())
    assert about.pop("classes") == ["ant", "bee", "cow"]
    network = create_classifier(about.pop("classifier"), 3, **about)
    network.load_state_dict(load_tensors(made.folder / "model.safetensors"))

    shutil.copytree(folders, tmp_path / "elsewhere")  # the same images in another place are the same input
    moved = settings(tmp_path / "elsewhere", energy={"mode": "mhe", "power": 0}, seed=3)
    assert run_stage(moved.stage, moved, {"pictures": ImageSet(moved.data, run)}, run).folder == made.folder
    assert "fresh" in capfd.readouterr().err
    other = settings(folders, energy={"mode": "mhe", "power": 1}, seed=3)
    assert run_stage(other.stage, other, {"pictures": ImageSet(other.data, run)}, run).folder != made.folder


def test_plane_features_are_saved_and_plotted(folders: Path, run: RunContext) -> None:
    given = settings(folders, network="mnist6", data={"scarce": 1, "keep": 0.5, "mirror": False, "pad": 0})
    made = run_stage(given.stage, given, {"pictures": ImageSet(given.data, run)}, run)
    kept = load_tensors(made.folder / "features.safetensors")
    assert kept["features"].shape == (12, 2) and kept["classifiers"].shape == (3, 2)
    logits = kept["features"] @ kept["classifiers"].T
    right = (logits.argmax(1) == kept["labels"]).float().mean()
    assert right.item() == pytest.approx(made.manifest["counts"]["accuracy"])
    assert made.manifest["counts"]["train_images"] == 10
    of_scarce = kept["labels"] == 1
    expected = (logits.argmax(1) == kept["labels"])[of_scarce].float().mean().item()
    assert made.manifest["counts"]["scarce_accuracy"] == pytest.approx(expected)
    assert Image.open(made.folder / "plane.png").size[0] > 300


def test_images_of_any_size(folders: Path, run: RunContext) -> None:
    given = settings(folders, network="torchvision:resnet18", width=0, max_iter=1, steps=[], test_every=1, offset=0,
                     data={"name": "files", "resize": 40, "crop": 32})  # fmt: skip
    made = run_stage(given.stage, given, {"pictures": ImageSet(given.data, run)}, run)
    assert json.loads((made.folder / "config.json").read_text())["size"] == 32
    assert torch.isfinite(torch.tensor(made.manifest["counts"]["loss"]))


def test_missing_dataset_is_refused(run: RunContext, tmp_path: Path) -> None:
    given = settings(tmp_path / "nowhere", data={"name": "cifar100"})
    with pytest.raises(DatasetError, match=r"data.download=true"):
        run_stage(given.stage, given, {"pictures": ImageSet(given.data, run)}, run)
