"""The stage `classify`, from images on disk to its artefact."""

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
from sfplus.image_tasks.scores import load_classifier
from sfplus.io.console import Console
from sfplus.networks.normalize import normalize_images
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


def make_settings(root: Path, **options: Any) -> ClassifySettings:
    data = {"name": "folder", "root": root} | options.pop("data", {})
    return ClassifySettings.model_validate(SMALL | {"data": data} | options)


@pytest.mark.slow
def test_artefact_is_complete_and_built_once(
    folders: Path, run: RunContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(folders, energy={"mode": "mhe", "power": 0}, seed=3)
    artefact = run_stage(settings.stage, settings, {"pictures": ImageSet(settings.data, run)}, run)
    result = json.loads((artefact.folder / "result.json").read_text())
    assert result["accuracy_by_class"].keys() == {"ant", "bee", "cow"}
    assert result["accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_class"].values())))
    assert result["best_accuracy"] >= result["accuracy"] and len(result["energies"]) == 8
    counts = artefact.manifest["counts"]
    assert (counts["train_images"], counts["test_images"], counts["accuracy"]) == (12, 12, result["accuracy"])
    assert artefact.manifest["settings"]["data"].keys().isdisjoint({"root", "download"})
    for name in ("curves.png", "history.jsonl", "model.safetensors"):
        assert (artefact.folder / name).stat().st_size > 100
    config = json.loads((artefact.folder / "config.json").read_text())
    assert config.pop("classes") == ["ant", "bee", "cow"]
    network = create_classifier(config.pop("classifier"), 3, **config)
    network.load_state_dict(load_tensors(artefact.folder / "model.safetensors"))

    shutil.copytree(folders, tmp_path / "elsewhere")  # the same images in another folder are the same input
    moved = make_settings(tmp_path / "elsewhere", energy={"mode": "mhe", "power": 0}, seed=3)
    assert run_stage(moved.stage, moved, {"pictures": ImageSet(moved.data, run)}, run).folder == artefact.folder
    assert "fresh" in capfd.readouterr().err
    changed = make_settings(folders, energy={"mode": "mhe", "power": 1}, seed=3)
    assert run_stage(changed.stage, changed, {"pictures": ImageSet(changed.data, run)}, run).folder != artefact.folder


def test_a_rescaled_classifier_is_saved_and_loaded(folders: Path, run: RunContext) -> None:
    settings = make_settings(folders, operator="linear", rescale=True)
    artefact = run_stage(settings.stage, settings, {"pictures": ImageSet(settings.data, run)}, run)
    network, _ = load_classifier(artefact.folder)
    saved = load_tensors(artefact.folder / "model.safetensors")
    betas = [value for name, value in saved.items() if name.endswith("beta")]
    assert len(betas) == 7 and all((beta != 1).any() for beta in betas), "they are trained"
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


def test_plane_features_are_saved_and_plotted(folders: Path, run: RunContext) -> None:
    settings = make_settings(folders, network="mnist6", data={"scarce": 1, "keep": 0.5, "mirror": False, "pad": 0})
    artefact = run_stage(settings.stage, settings, {"pictures": ImageSet(settings.data, run)}, run)
    saved = load_tensors(artefact.folder / "features.safetensors")
    assert saved["features"].shape == (12, 2) and saved["classifiers"].shape == (3, 2)
    logits = saved["features"] @ saved["classifiers"].T
    accuracy = (logits.argmax(1) == saved["labels"]).float().mean()
    assert accuracy.item() == pytest.approx(artefact.manifest["counts"]["accuracy"])
    assert artefact.manifest["counts"]["train_images"] == 10
    is_scarce = saved["labels"] == 1
    expected = (logits.argmax(1) == saved["labels"])[is_scarce].float().mean().item()
    assert artefact.manifest["counts"]["scarce_accuracy"] == pytest.approx(expected)
    config = json.loads((artefact.folder / "config.json").read_text())
    network = create_classifier(config.pop("classifier"), len(config.pop("classes")), **config).eval()
    network.load_state_dict(load_tensors(artefact.folder / "model.safetensors"))
    train_set, _ = ImageSet(settings.data, run).load()
    rows = np.flatnonzero(train_set.labels.numpy() == 1)
    with torch.no_grad():
        learned = (network(normalize_images(train_set.batch(rows))).argmax(1) == 1).float().mean().item()
    assert len(rows) == 2 and artefact.manifest["counts"]["scarce_train_accuracy"] == pytest.approx(learned)
    assert Image.open(artefact.folder / "plane.png").size[0] > 300


@pytest.mark.slow
def test_images_of_any_size(folders: Path, run: RunContext) -> None:
    data = {"name": "files", "resize": 40, "crop": 32}
    options = {"network": "torchvision:resnet18", "width": 0, "max_iter": 1, "steps": [], "test_every": 1, "offset": 0}
    settings = make_settings(folders, data=data, **options)
    artefact = run_stage(settings.stage, settings, {"pictures": ImageSet(settings.data, run)}, run)
    assert json.loads((artefact.folder / "config.json").read_text())["size"] == 32
    assert torch.isfinite(torch.tensor(artefact.manifest["counts"]["loss"]))


def test_missing_dataset_is_refused(run: RunContext, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "missing", data={"name": "cifar100"})
    with pytest.raises(DatasetError, match=r"data.download=true"):
        run_stage(settings.stage, settings, {"pictures": ImageSet(settings.data, run)}, run)
