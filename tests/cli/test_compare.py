"""`sfplus compare` decides on two photos by the verification of the model; `sfplus export` saves that verification."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import FEATURE_INDEX, FEATURES, RESULT, SCORES
from sfplus.io.tables import write_parquet
from sfplus.networks import create
from sfplus.pipeline.export import export_model
from sfplus.verification.decision import DecisionRule
from sfplus.weights.model_folder import save_model

VERIFICATION = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}
CONFIG = {"network": "sphereface4", "feature_size": 2, "width": 0.125, "template": "sphereface-112x96"}


def save_untrained(folder: Path, **config: object) -> None:
    torch.manual_seed(0)
    save_model(folder, create("sphereface4", feature_size=2, width=0.125), CONFIG | config)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained model with 100 random scores of each kind."""
    save_untrained(tmp_path / "model", verification=VERIFICATION)
    rng = np.random.default_rng(0)
    same, different = (np.sort(rng.normal(mean, 0.2, 100).astype(np.float32)) for mean in (0.5, 0))
    DecisionRule(np.zeros(4, np.float32), same, different, VERIFICATION).save(tmp_path / "model")
    return tmp_path / "model"


def test_compare_at_a_far(model: Path, drawn: Path, sfplus: Callable) -> None:
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", model, "--far", "0.01")
    assert answer.code == 0 and "FAR 0.01: 1 of 100 pairs of different people are accepted" in answer.out
    answer = sfplus("compare", first, second, "--model", model, "--far", "0.001")
    assert answer.code == 2 and "cannot resolve a rate below 0.01; use 0.01 or more" in answer.err
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"verification": None}))
    answer = sfplus("compare", first, second, "--model", model)
    assert answer.code == 2 and "create it with: sfplus export" in answer.err


def test_the_default_model_decides_at_a_far(drawn: Path, sfplus: Callable) -> None:
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--far", "0.001")
    assert answer.code == 0 and "3 of 3,000 pairs of different people are accepted" in answer.out


def test_crops_cannot_be_saved_below_a_file(sfplus: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = sfplus("compare", "a.jpg", "b.jpg", "--save", tmp_path / "file" / "crops")
    assert answer.code == 2 and "file: is not a folder; choose another one" in answer.err


def test_an_exported_model_has_the_mean_threshold_of_all_folds_and_the_scores_of_the_pairs(tmp_path: Path) -> None:
    photos = [f"p{i}.jpg" for i in range(4)]
    features = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    embedded, verified = tmp_path / "embed", tmp_path / "verify"
    embedded.mkdir()
    verified.mkdir()
    save_file({"features": features}, embedded / FEATURES)
    write_parquet(embedded / FEATURE_INDEX, {"photo": photos})
    write_parquet(verified / SCORES, {"left": photos[:2], "right": photos[2:], "same": [True, False]})
    result = {"protocol": "sphereface", "mean": 0.9, "standard_error": 0.01, "threshold": [0.1, 0.2, 0.6],
              "undetected": {"policy": "skip"}}  # fmt: skip
    (verified / RESULT).write_text(json.dumps(result))
    manifest = {"sources": {"pairs": "lists/pairs.txt"}, "inputs": {"pairs": "0" * 64}}
    artefacts = {"embed/m": Artefact(embedded, {}), "verify/m": Artefact(verified, manifest)}
    save_untrained(tmp_path / "source")
    export_model(artefacts, tmp_path / "source", tmp_path / "model", half=False)
    verification = json.loads((tmp_path / "model/config.json").read_text())["verification"]
    assert verification["threshold"] == pytest.approx(0.3) and verification["accuracy"] == 0.9
    assert verification["pairs"] == "2 pairs of pairs.txt" and verification["pairs_sha256"] == "0" * 64
    exported = DecisionRule.load(tmp_path / "model", {"verification": verification})
    expected = DecisionRule.from_pairs(features[:2], features[2:], np.array([True, False]))
    assert np.array_equal(exported.same, expected.same) and np.array_equal(exported.different, expected.different)
