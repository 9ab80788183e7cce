"""`sfplus compare` decides whether two photos show the same person."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from sklearn.metrics.pairwise import cosine_similarity
from untrained_models import save_untrained

from sfplus import Detector, Embedder
from sfplus.verification.decision import DecisionRule

VERIFICATION = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained model with 100 random scores of each kind."""
    save_untrained(tmp_path / "model", feature_size=2, verification=VERIFICATION)
    rng = np.random.default_rng(0)
    same, different = (np.sort(rng.normal(mean, 0.2, 100).astype(np.float32)) for mean in (0.5, 0))
    DecisionRule(np.zeros(4, np.float32), same, different, VERIFICATION).save(tmp_path / "model")
    return tmp_path / "model"


def test_two_photos_are_compared_at_a_far(model: Path, drawn: Path, sfplus: Callable) -> None:
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", model, "--far", "0.01")
    assert answer.code == 0 and "FAR 0.01: 1 of 100 pairs of different people are accepted" in answer.out
    answer = sfplus("compare", first, second, "--model", model, "--far", "0.001")
    assert answer.code == 2 and "cannot resolve a rate below 0.01; use 0.01 or more" in answer.err
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"verification": None}))
    answer = sfplus("compare", first, second, "--model", model)
    assert answer.code == 0 and "has no threshold to decide at" in answer.out


def test_texts_of_a_model_cannot_forge_a_decision(model: Path, drawn: Path, sfplus: Callable) -> None:
    config = json.loads((model / "config.json").read_text())
    forged = "x\x1b[2J\nsimilarity 0.990: same person" + " " * 200
    verification = config["verification"] | {"pairs": forged + "x" * 10_000, "protocol": forged}
    (model / "config.json").write_text(json.dumps(config | {"verification": verification, "name": forged}))
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    for options in ([], ["--far", "0.01"]):
        answer = sfplus("compare", first, second, "--model", model, *options)
        assert answer.code == 0 and "\x1b" not in answer.out + answer.err and len(answer.out) < 1500
        assert sum(line.startswith("similarity") for line in answer.out.splitlines()) == 1


def test_the_default_model_decides_at_a_far(drawn: Path, sfplus: Callable) -> None:
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--far", "0.001")
    assert answer.code == 0 and "3 of 3,000 pairs of different people are accepted" in answer.out


def test_crops_cannot_be_saved_below_a_file(sfplus: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = sfplus("compare", "a.jpg", "b.jpg", "--out", tmp_path / "file" / "crops")
    assert answer.code == 2 and "file: is not a folder; choose another one" in answer.err


def test_a_model_without_a_threshold_gives_the_similarity_and_a_remedy(
    drawn: Path, untrained_model: Path, sfplus: Callable
) -> None:
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", untrained_model)
    left, right = Embedder(untrained_model, "cpu")([first, second])
    assert answer.code == 0 and answer.err == ""
    assert f"similarity {cosine_similarity([left], [right])[0, 0]:.3f}: the cosine" in answer.out
    assert f"sfplus calibrate {untrained_model} PHOTOS PAIRS" in answer.out
    answer = sfplus("compare", first, second, "--model", untrained_model, "--far", "0.01")
    assert answer.code == 2 and "--far 0.01: this model has no error rates; measure them: sfplus cal" in answer.err


def test_a_threshold_does_not_apply_to_another_input(model: Path, drawn: Path, sfplus: Callable) -> None:
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", model, "--input", "channels=rgb")
    assert answer.code == 0 and "has no threshold to decide at" in answer.out


def test_a_damaged_threshold_is_one_error(model: Path, drawn: Path, sfplus: Callable) -> None:
    config = json.loads((model / "config.json").read_text())
    config["verification"]["threshold"] = float("nan")
    (model / "config.json").write_text(json.dumps(config))
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", model)
    assert answer.code == 1 and "verification.threshold: Input should be a finite number" in answer.err


def test_two_photos_are_compared_and_one_without_a_face_is_an_error(
    tmp_path: Path, untrained_model: Path, drawn: Path, sfplus: Callable
) -> None:

    shutil.copytree(untrained_model, tmp_path / "model")
    save_file({"mean": np.zeros(32, np.float32)}, tmp_path / "model" / "mean.safetensors")
    config = (tmp_path / "model/config.json").read_text()
    verification = (
        '"verification": {"threshold": 0.5, "accuracy": 0.9, "protocol": "sphereface", "pairs": "drawn pairs"}'
    )
    (tmp_path / "model/config.json").write_text(config.replace('"width"', f'{verification}, "width"'))
    photo = next(drawn.glob("*/*.jpg"))
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "black.png")
    answer = sfplus("compare", photo, tmp_path / "black.png", "--model", tmp_path / "model")
    assert answer.code == 1 and "black.png: no face found" in answer.err
    answer = sfplus("compare", photo, photo, "--model", tmp_path / "model", "--out", tmp_path / "crops")
    assert answer.code == 0 and "similarity 1.000: same person" in answer.out
    assert "an accuracy of 90.00 % (sphereface protocol)" in answer.out
    assert sorted(path.name[:2] for path in (tmp_path / "crops").iterdir()) == ["A-", "B-"]
    assert "does not exist" in sfplus("compare", photo, tmp_path / "gone.jpg", "--model", tmp_path / "model").err


@pytest.mark.slow
def test_of_several_faces_the_compared_one_is_named_and_the_others_have_numbers(
    drawn: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect, counts = Detector.detect, list[int]()

    def count_photos(self: Detector, photos: list, *rest: object, **options: object) -> list:
        counts.append(len(photos))
        return detect(self, photos, *rest, **options)

    first, same, different = (drawn / name for name in (
        "person_000/person_000_0001.jpg", "person_000/person_000_0002.jpg", "person_001/person_001_0001.jpg"
    ))  # fmt: skip
    both = np.hstack([np.array(Image.open(path)) for path in (same, different)])
    Image.fromarray(both).save(tmp_path / "two.png")
    centre, largest = (
        sfplus("compare", first, tmp_path / "two.png", *words) for words in ((), ("--choose", "largest"))
    )
    numbers = [re.findall(r"similarity (-?[\d.]+)", answer.out) for answer in (centre, largest)]
    assert len(numbers[0]) == 2 and numbers[0] == numbers[1][::-1] and numbers[0] != numbers[1]
    assert f"{tmp_path / 'two.png'} has 2 faces; the one of " in centre.out and f"{first} has" not in centre.out
    assert "compared (--choose centre)" in centre.out and "compared (--choose largest)" in largest.out
    monkeypatch.setattr(Detector, "detect", count_photos)
    swapped = sfplus("compare", tmp_path / "two.png", first, "--out", tmp_path / "crops")
    assert counts == [1, 1]  # faces are detected once
    for name, photo in (("A-two.png", tmp_path / "two.png"), (f"B-{first.stem}.png", first)):
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "crops" / name)), Embedder().crops(photo))
    assert re.findall(r"similarity (-?[\d.]+)", swapped.out) == numbers[0]
    assert "faces" not in sfplus("compare", first, same).out
