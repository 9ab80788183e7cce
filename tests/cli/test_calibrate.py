"""`sfplus calibrate` puts a threshold into the folder of a model, as `sfplus export` does."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from untrained_models import save_untrained

from sfplus import Embedder
from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.images import list_photos
from sfplus.io.files import file_digest
from sfplus.verification.decision import DecisionRule

FACTS = {
    "template": "sphereface-112x96", "licence": "MIT", "provenance": {"file": "x.pth", "sha256": "0" * 64},
    "published": {"lfw": 99.3, "runs": [99.3], "protocol": "sphereface", "source": "its README"},
}  # fmt: skip


@pytest.fixture(scope="module")
def task(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pairs of drawn people and an untrained model with a classifier."""
    folder = tmp_path_factory.mktemp("calibrate")
    write_pairs(folder / "pairs.txt", draw_pairs(list_photos(drawn), 2, 3, 0))
    save_untrained(folder / "model", head=torch.nn.Linear(16, 4, bias=False), **FACTS)
    return folder


@pytest.fixture
def calibrate(task: Path, drawn: Path, sfplus: Callable) -> Callable:
    def call(model: object, *words: object) -> object:
        return sfplus("calibrate", model, drawn, task / "pairs.txt", *words, "--workspace", task / "data")

    return call


def expected_rule(task: Path, drawn: Path) -> DecisionRule:
    """Compute the rule of all pairs without the stages."""
    embedder = Embedder(task / "model", "cpu")
    left, right, same = [], [], []
    for line in (task / "pairs.txt").read_text().splitlines()[1:]:
        words = line.split()
        people = (words[0], words[0]) if len(words) == 3 else (words[0], words[2])
        for side, person, number in zip((left, right), people, (words[1], words[-1]), strict=True):
            side.append(drawn / person / f"{person}_{int(number):04d}.jpg")
        same.append(len(words) == 3)
    return DecisionRule.from_pairs(embedder(left), embedder(right), np.array(same))


@pytest.mark.slow
def test_a_folder_gets_a_threshold_and_keeps_its_other_facts(
    task: Path, drawn: Path, calibrate: Callable, sfplus: Callable, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(task / "model", tmp_path / "mine"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    answer = calibrate(folder)
    assert answer.code == 0, answer.err
    config = json.loads((folder / "config.json").read_text())
    verification = config.pop("verification")
    assert config == json.loads(before["config.json"])
    assert all((folder / name).read_bytes() == before[name] for name in before if name != "config.json")
    assert verification["pairs"] == "12 pairs of pairs.txt" and verification["protocol"] == "sphereface"
    rule = DecisionRule.load(folder, config | {"verification": verification})
    expected = expected_rule(task, drawn)
    assert rule is not None
    for name in ("mean", "same", "different"):
        np.testing.assert_allclose(getattr(rule, name), getattr(expected, name), atol=0.06)  # the stages store JPEG
    assert f"threshold {verification['threshold']:.3f}" in answer.out and f"model: {folder}" in answer.out
    assert f"accuracy {100 * verification['accuracy']:.2f} % on 12 pairs of pairs.txt" in answer.out
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    assert "decided at" in sfplus("compare", first, second, "--model", folder).out

    stored = file_digest(folder / "config.json"), file_digest(folder / "mean.safetensors")
    calibrate(folder)
    answer = calibrate(folder)  # whose config has not changed since
    assert answer.code == 0 and answer.err.count("fresh") == 4
    assert stored == (file_digest(folder / "config.json"), file_digest(folder / "mean.safetensors"))


@pytest.mark.parametrize("source", ["model", "model/model.safetensors"])
def test_out_is_a_copy_or_the_converted_model(source: str, task: Path, calibrate: Callable, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in task.rglob("*") if path.is_file() and "data" not in path.parts}
    answer = calibrate(task / source, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert all(path.read_bytes() == content for path, content in before.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: config[key] for key in FACTS} == FACTS and config["verification"]["pairs"] == "12 pairs of pairs.txt"
    weights, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", task / "model"))
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    assert (tmp_path / "out" / "head.safetensors").read_bytes() == (task / "model/head.safetensors").read_bytes()
    assert DecisionRule.load(tmp_path / "out", config) is not None
    again = calibrate(task / source, "--out", tmp_path / "out")
    assert again.code == 2 and "already exists" in again.err


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("model/model.safetensors", (), "is not a folder, in which a threshold can be kept; give a new folder: --out"),
        ("sphereface10-distilled", (), "is not a folder of yours, and is not changed; give a new folder: --out"),
        ("pretrained/sphereface10-distilled", (), "is not a folder of yours"),
        ("fetched", (), "is not a folder of yours"),
        ("model", ("--input", "insightface"), "would be used with another input than its own; give a new folder"),
        ("gone", (), "there is no model"),
    ],
)
def test_models_that_are_not_changed_need_a_folder(
    model: str, words: tuple[str, ...], message: str, task: Path, calibrate: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFPLUS_HOME", str(task / "home"))
    if model == "fetched":
        shutil.copytree(task / "model", task / "home" / "fetched", dirs_exist_ok=True)
    name = task / model if model.startswith("model") else model
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.rglob("*.json")}
    monkeypatch.chdir(Path(__file__).parents[2])
    answer = calibrate(name, *words)
    assert answer.code == 2 and message in answer.err
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.rglob("*.json")}
