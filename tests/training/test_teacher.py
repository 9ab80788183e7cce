"""Training with a teacher: its gradient, beside the head and alone, resuming, and features that do not belong."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_cases import mostly_slow, slow
from teacher_models import align_artefact, features_artefact, random_crops
from tiny import SETTINGS, State, is_equal, state_of_model, stop_at, tiny_model

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.teacher_features import FEATURES, TeacherFeatures
from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.errors import ArtefactError, DatasetError, TrainingError
from sfplus.hypersphere import cosine_distillation, relational_distillation
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training.face_task import fit
from sfplus.training.sampling import draw_flips, draw_indices
from sfplus.training.teacher import Distillation

CROPS = Artefact(Path("crops"), {"content": "c", "inputs": {"photos": "p", "faces": "f"}})


def names_of(crops: CropDataset) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in crops.paths]


def teach(folder: Path, crops: CropDataset, size: int = 32, sha256: str = "5" * 64) -> TeacherFeatures:
    """Return a feature per person, of the crop and another of the mirror image; stored in another order."""
    rng = np.random.default_rng(1)
    people = rng.normal(size=(int(crops.labels.max()) + 1, 2, size))
    rows = people[crops.labels.numpy()] / np.linalg.norm(people[crops.labels.numpy()], axis=2, keepdims=True)
    artefact = features_artefact(folder, CROPS, names_of(crops)[::-1], rows[::-1], sha256)
    return TeacherFeatures(artefact, CROPS, names_of(crops))


def create_teacher(crops: CropDataset, settings: TrainSettings, dtype: torch.dtype = torch.float32) -> Distillation:
    """Return a teacher with features of another size than those of the network, so that there is a map."""
    with tempfile.TemporaryDirectory() as folder:
        features = teach(Path(folder) / "features", crops, size=12)
    assert settings.teacher is not None
    distillation = Distillation(settings.teacher, features, settings.feature_size)
    if distillation.map is not None:
        distillation.map.to(dtype)
    return distillation


def settings_with(changes: dict[str, Any] | None = None, **teacher: Any) -> TrainSettings:
    alone = {"energy": None} if teacher.get("classify") is False else {}
    data = SETTINGS.model_dump() | {"teacher": {"model": "t.onnx", **teacher}} | alone | (changes or {})
    return TrainSettings.model_validate(data)


def run(
    crops: CropDataset, folder: Path, features: TeacherFeatures, settings: TrainSettings, on_step: Any = None
) -> tuple[State, dict[str, float]]:
    network, head = tiny_model(settings)
    assert settings.teacher is not None
    distillation = Distillation(settings.teacher, features, settings.feature_size)
    used = head if settings.classifies else None
    summary = fit(network, used, crops, settings, folder, choose_device("cpu"), on_step, None, distillation)
    return state_of_model(network, head), summary


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("passes", [1, 5])
@pytest.mark.parametrize("classify", [True, False])
def test_a_step_follows_the_gradient_of_the_written_formula(
    classify: bool, passes: int, crops: CropDataset, tmp_path: Path
) -> None:
    """Compare with plain torch: the head's loss, 3 (1 - cos) through a map, and 2 times the relations."""
    features = teach(tmp_path / "features", crops, size=12)
    relational = 2.0 if passes == 1 else 0.0
    changes = {"max_iter": 1, "log_every": 1, "base_lr": 1.0, "weight_decay": 0.0, "energy": None, "accumulate": passes}
    settings = settings_with(changes, cosine=3, relational=relational, classify=classify)
    state, _ = run(crops, tmp_path / "run", features, settings)
    network, head = tiny_model(settings)
    weight = torch.nn.Linear(32, 12, bias=False).weight
    indices, flips = draw_indices(1, len(crops), 10, 0), draw_flips(1, settings)
    photos = torch.stack([crops[i][0].flip(1) if f else crops[i][0] for i, f in zip(indices, flips, strict=True)])
    x, taught = network(normalize_crops(photos)), torch.from_numpy(features.batch(indices))
    loss = distillation = 3 * cosine_distillation(x @ weight.T, taught) + relational * relational_distillation(
        x, taught
    )
    if classify:
        head_loss = head.loss(x, crops.labels[torch.from_numpy(indices)])
        loss = head_loss + distillation
    (row,) = rows(tmp_path / "run")
    assert row["distillation"] == pytest.approx(distillation.item(), rel=1e-4)
    assert row["loss"] == pytest.approx((head_loss if classify else distillation).item(), rel=1e-4)
    assert row["teacher_cosine"] == pytest.approx(1 - cosine_distillation(x @ weight.T, taught).item(), abs=1e-5)
    assert (row["accuracy"] is None) is (row["lambda"] is None) is not classify
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    for (name, p), gradient in zip(network.named_parameters(), gradients, strict=True):
        rate = 2 if name.endswith("bias") else 1
        torch.testing.assert_close(state[f"network.{name}"], (p - rate * gradient).detach(), rtol=1e-3, atol=2e-6)
    assert torch.equal(state["head.weight"], head.weight) is not classify


@pytest.mark.parametrize("size", [32, slow(12)])
def test_the_network_approaches_the_teacher(size: int, crops: CropDataset, tmp_path: Path) -> None:
    features = teach(tmp_path / "features", crops, size)
    _, summary = run(crops, tmp_path / "run", features, settings_with({"clip": 1.0}, cosine=5, relational=1))
    history = rows(tmp_path / "run")
    assert history[-1]["teacher_cosine"] > history[0]["teacher_cosine"] + 0.4
    assert 0 <= summary["accuracy"] <= 1 and history[-1]["energy"] is not None


def test_relations_alone_need_no_map_and_are_learned(crops: CropDataset, tmp_path: Path) -> None:
    features = teach(tmp_path / "features", crops, size=12)
    settings = settings_with({"clip": 1.0}, cosine=0, relational=5, classify=False)
    _, summary = run(crops, tmp_path / "run", features, settings)
    history = rows(tmp_path / "run")
    assert history[-1]["loss"] < 0.3 * history[0]["loss"] and history[0]["teacher_cosine"] is None
    assert "accuracy" not in summary and np.isfinite(summary["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("classify", mostly_slow([True, False], [True]))
def test_an_interrupted_run_ends_with_the_same_bits(classify: bool, crops: CropDataset, tmp_path: Path) -> None:
    """With a map, augmentation, an average and a checkpoint in between; another teacher is refused."""
    features = teach(tmp_path / "features", crops, size=12)
    settings = settings_with({"augment": 1.0, "ema": 0.5, "clip": 1.0}, relational=1, classify=classify)
    whole, _ = run(crops, tmp_path / "whole", features, settings)
    with pytest.raises(ZeroDivisionError):
        run(crops, tmp_path / "parts", features, settings, stop_at(13, ZeroDivisionError()))
    parts, _ = run(crops, tmp_path / "parts", features, settings)
    assert is_equal(whole, parts)
    assert (tmp_path / "whole/history.jsonl").read_bytes() == (tmp_path / "parts/history.jsonl").read_bytes()
    other = teach(tmp_path / "other", crops, size=12, sha256="6" * 64)
    with pytest.raises(TrainingError, match="other settings or other data"):
        run(crops, tmp_path / "parts", other, settings)


def test_features_follow_the_names_and_are_the_mean_direction(crops: CropDataset, tmp_path: Path) -> None:
    features = teach(tmp_path / "features", crops)
    stored = np.load(tmp_path / "features" / FEATURES).astype(np.float64)[[-1, -6]].sum(1)
    expected = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(features.batch(np.array([0, 5])), expected, rtol=1e-5, atol=1e-7)
    assert features.size == 32 and len(features) == len(crops)
    assert features.about == {"name": "teacher.onnx", "sha256": "5" * 64, "licence": ""}


def test_features_of_other_crops_are_refused(tmp_path: Path) -> None:
    """The photos or the faces differ; another template of the same faces is accepted."""
    crops = align_artefact(tmp_path / "crops", random_crops(2))
    artefact = features_artefact(tmp_path / "features", crops, list(random_crops(2)), np.ones((2, 1, 4)))
    for number, inputs in enumerate(({"photos": "q", "faces": "f"}, {"photos": "p", "faces": "g"})):
        other = align_artefact(tmp_path / str(number), random_crops(2), inputs=inputs)
        with pytest.raises(DatasetError, match="those of other photos or faces than the crops to train on"):
            TeacherFeatures(artefact, other, list(random_crops(2)))
    wide = align_artefact(tmp_path / "wide", random_crops(2, 112, 112), "arcface-112x112")
    assert len(TeacherFeatures(artefact, wide, list(random_crops(2)))) == 2


def test_a_crop_without_a_feature_is_named(crops: CropDataset, tmp_path: Path) -> None:
    teach(tmp_path / "features", crops)
    artefact = Artefact.open(tmp_path / "features")
    assert artefact is not None
    with pytest.raises(DatasetError, match=r"1 of 49 crops have no feature of the teacher, the first is new\.jpg"):
        TeacherFeatures(artefact, CROPS, [*names_of(crops), "new.jpg"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table[:-1], r"holds float16 \(47, 2, 32\) for 48 crops"),
        (lambda table: table.astype(np.float32), "holds float32"),
        (lambda table: table[:, 0], r"holds float16 \(48, 32\)"),
        (lambda table: np.array([{}]), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_damaged_features_are_refused(damage: Any, message: str, crops: CropDataset, tmp_path: Path) -> None:
    teach(tmp_path / "features", crops)
    file, artefact = tmp_path / "features" / FEATURES, Artefact.open(tmp_path / "features")
    assert artefact is not None
    if damage is None:
        file.write_bytes(file.read_bytes()[:200])
    else:
        np.save(file, damage(np.load(file)), allow_pickle=True)
    with pytest.raises(ArtefactError, match=message):
        TeacherFeatures(artefact, CROPS, names_of(crops))


def test_nan_in_stored_features_stops_training(crops: CropDataset, tmp_path: Path) -> None:
    teach(tmp_path / "features", crops)
    file, artefact = tmp_path / "features" / FEATURES, Artefact.open(tmp_path / "features")
    table = np.load(file)
    table[7, 1, 3] = np.nan
    np.save(file, table)
    assert artefact is not None
    with pytest.raises(ArtefactError, match="a feature that is not finite"):
        run(crops, tmp_path / "run", TeacherFeatures(artefact, CROPS, names_of(crops)), settings_with())
