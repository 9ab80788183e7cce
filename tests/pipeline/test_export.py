"""An exported model is saved with the verification that decides its threshold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from untrained_models import save_untrained

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import FEATURE_INDEX, FEATURES, RESULT, SCORES
from sfplus.io.tables import write_parquet
from sfplus.pipeline.export import export_model
from sfplus.verification.decision import DecisionRule


def test_an_exported_model_has_the_mean_threshold_of_all_folds_and_the_scores_of_the_pairs(tmp_path: Path) -> None:
    photos = [f"p{i}.jpg" for i in range(4)]
    features = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    embedded, verified = tmp_path / "embed", tmp_path / "verify"
    embedded.mkdir()
    verified.mkdir()
    save_file({"features": features}, embedded / FEATURES)
    write_parquet(embedded / FEATURE_INDEX, {"photo": photos, "how": ["face"] * 4})
    write_parquet(verified / SCORES, {
        "left": photos[:2], "right": photos[2:], "same": [True, False], "fold": [0, 1], "score": [0.5, 0.1],
    })  # fmt: skip
    result = {"protocol": "sphereface", "mean": 0.9, "standard_error": 0.01, "accuracy": [0.9] * 3, "protocols": {}, 
              "threshold": [0.1, 0.2, 0.6],
              "pairs_sha256": "0" * 64, "undetected": {"policy": "skip"}}  # fmt: skip
    (verified / RESULT).write_text(json.dumps(result))
    manifest = {"sources": {"pairs": "lists/pairs.txt"}}
    artefacts = {"embed/m": Artefact(embedded, {}), "verify/m": Artefact(verified, manifest)}
    save_untrained(tmp_path / "source", feature_size=2)
    export_model(artefacts, tmp_path / "source", tmp_path / "model", half=False)
    verification = json.loads((tmp_path / "model/config.json").read_text())["verification"]
    assert verification["threshold"] == pytest.approx(0.3) and verification["accuracy"] == 0.9
    assert verification["pairs"] == "2 pairs of pairs.txt" and verification["pairs_sha256"] == "0" * 64
    exported = DecisionRule.load(tmp_path / "model", {"verification": verification})
    expected = DecisionRule.from_pairs(features[:2], features[2:], np.array([True, False]))
    assert np.array_equal(exported.same, expected.same) and np.array_equal(exported.different, expected.different)
