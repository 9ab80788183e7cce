"""The stage `generate` on a small dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import run_stage
from sfplus.artifacts.context import RunContext
from sfplus.image_tasks import generate_stage
from sfplus.image_tasks.image_set import ImageSet
from sfplus.io.console import Console
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.generate import GenerateSettings

SMALL = {"width": 1 / 32, "batch_size": 4, "max_iter": 3, "log_every": 1, "sample_every": 2}


def make(image_folder: Path, workspace: Path, classifier: Artefact | None = None, **changes: Any) -> Artefact:
    settings = GenerateSettings.model_validate(
        {**SMALL, "data": {"name": "folder", "root": image_folder}, "scores": {"samples": 8, "splits": 2}, **changes}
    )
    run = RunContext(workspace, Console(quiet=True), "cpu")
    inputs: dict[str, Any] = {"pictures": ImageSet(settings.data, run)}
    if classifier:
        inputs["classifier"] = classifier
    return run_stage(settings.stage, settings, inputs, run)


def test_artefact_of_a_generator(image_folder: Path, tmp_path: Path) -> None:
    artefact = make(image_folder, tmp_path)
    names = {path.relative_to(artefact.folder).as_posix() for path in artefact.folder.rglob("*") if path.is_file()}
    assert {"samples.png", "samples/000000.png", "samples/000002.png", "curves.png", "history.jsonl"} <= names
    assert {"model.safetensors", "config.json", "manifest.json"} <= names
    assert not list(artefact.folder.glob("checkpoint-*"))
    for name in ("samples.png", "samples/000000.png"):
        assert Image.open(artefact.folder / name).size == (256, 256)
    assert (artefact.folder / "samples.png").read_bytes() != (artefact.folder / "samples/000000.png").read_bytes()
    with Image.open(artefact.folder / "curves.png") as image:
        assert image.size[0] > 2 * image.size[1]
    counts = artefact.manifest["counts"]
    assert counts["images"] == 8 and counts["steps"] == 3
    rows = [json.loads(line) for line in (artefact.folder / "history.jsonl").read_text().splitlines()]
    assert counts["energy"] == rows[-1]["energy"] and "mhe_loss" not in counts and "surrogate_score" not in counts


def make_classifier(image_folder: Path, workspace: Path) -> Artefact:
    run = RunContext(workspace, Console(quiet=True), "cpu")
    options = {
        "network": "cnn6",
        "width": 2,
        "batch_size": 4,
        "max_iter": 2,
        "log_every": 1,
        "test_every": 1,
        "steps": [],
    }
    settings = ClassifySettings.model_validate({**options, "data": {"name": "folder", "root": image_folder}})
    return run_stage(settings.stage, settings, {"pictures": ImageSet(settings.data, run)}, run)


def test_scores_need_a_classifier_or_inception(image_folder: Path, tmp_path: Path) -> None:
    classifier = make_classifier(image_folder, tmp_path)
    artefact = make(image_folder, tmp_path, classifier, energy={})
    counts = artefact.manifest["counts"]
    assert counts["surrogate_accuracy"] == pytest.approx(classifier.manifest["counts"]["accuracy"])
    assert 1 <= counts["surrogate_score"] <= 2 and 1 <= counts["surrogate_score_real"] <= 2
    assert counts["mhe_loss"] > 0 and "fid" not in counts and "inception_score" not in counts
    rebuilt = make(image_folder, tmp_path, classifier, energy={})
    assert rebuilt.folder == artefact.folder


@pytest.mark.slow
def test_the_best_of_regular_scores_is_reported(image_folder: Path, tmp_path: Path) -> None:
    """Each is the score of a training that ends there; the scores of a reused training cover all its generators."""
    classifier = make_classifier(image_folder, tmp_path)
    options: dict[str, Any] = {"base_lr": 0.05, "max_iter": 3}
    artefact = make(image_folder, tmp_path, classifier, **options, score_every=2)
    rows = [json.loads(line) for line in (artefact.folder / "scores.jsonl").read_text().splitlines()]
    shorter = [make(image_folder, tmp_path, classifier, **options | {"max_iter": n}) for n in (2, 3)]
    scores = [one.manifest["counts"]["surrogate_score"] for one in shorter]
    assert [row["step"] for row in rows] == [2, 3] and len({*scores}) == 2
    assert [row["surrogate_score"] for row in rows] == pytest.approx(scores, rel=1e-12)
    counts = artefact.manifest["counts"]
    assert counts["surrogate_score"] == pytest.approx(scores[-1], rel=1e-12)
    assert counts["best_surrogate_score"] == pytest.approx(max(scores), rel=1e-12)
    assert "best_surrogate_score" not in shorter[-1].manifest["counts"]
    again = make(image_folder, tmp_path, classifier, **options, score_every=2, scores={"samples": 12, "splits": 2})
    rows = [json.loads(line) for line in (again.folder / "scores.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 3]
    assert rows[0]["surrogate_score"] != pytest.approx(scores[0], rel=1e-9), "of other images"


@pytest.mark.slow
def test_other_scores_reuse_the_generator(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = make(image_folder, tmp_path, energy={})
    with monkeypatch.context() as patch:
        patch.setattr(generate_stage, "_train", lambda *_: pytest.fail("the generator was trained again"))
        rescored = make(image_folder, tmp_path, energy={}, scores={"samples": 6, "splits": 3})
    files = [{path.name: path.read_bytes() for path in one.folder.glob("*.*")} for one in (artefact, rescored)]
    assert all(contents.pop("manifest.json") for contents in files) and files[0] == files[1]
    assert rescored.folder != artefact.folder and rescored.manifest["counts"] == artefact.manifest["counts"]
    make(image_folder, tmp_path, energy={}, seed=1)


def test_fingerprint_covers_decisive_settings_only(image_folder: Path, tmp_path: Path) -> None:
    run = RunContext(tmp_path, Console(quiet=True), "cpu")
    identities = []
    for changes in ({}, {"checkpoint_every": 7}, {"data": {"name": "folder", "root": image_folder / "."}}, {"seed": 1}):
        settings = GenerateSettings.model_validate(
            {**SMALL, "data": {"name": "folder", "root": image_folder}, **changes}
        )
        identities.append(settings.stage.identity(settings, {"pictures": ImageSet(settings.data, run)}))
    assert identities[0] == identities[1] == identities[2] != identities[3]
