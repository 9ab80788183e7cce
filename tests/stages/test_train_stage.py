"""The stages `train` and `finetune`: results, held-out pairs, sharded classes, epochs, invalid folders of photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from untrained_models import save_untrained

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.inputs import InputFile
from sfplus.artifacts.layout import CROP_TABLE
from sfplus.artifacts.stage import Job
from sfplus.datasets.portraits import write_portraits
from sfplus.hypersphere import HEADS
from sfplus.io.console import Console
from sfplus.io.tables import write_parquet
from sfplus.recipes.settings.train import TrainSettings
from sfplus.stages import train
from sfplus.weights.model_folder import load_tensors

Sfplus = Callable[..., Any]


def rows(workspace: Path, stage: str) -> list[dict[str, Any]]:
    (path,) = (workspace / "cache" / stage).glob("*/history.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(workspace: Path, stage: str) -> dict[str, Any]:
    (path,) = (workspace / "cache" / stage).glob("*/manifest.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.slow
def test_held_out_pairs_sharded_classes_and_the_initial_model_are_used(
    tiny: Path, tmp_path: Path, sfplus: Sfplus
) -> None:
    """The last accuracy on held-out pairs is that of the stage `verify`."""
    words = ["run", tiny, "train.evaluate_every=2", "finetune.classes=sharded", "finetune.sample_rate=0.5"]
    answer = sfplus(*words, "--workspace", tmp_path, "--device", "cpu")
    assert answer.code == 0, answer.err
    verified = json.loads((tmp_path / "runs/tiny/report.json").read_text())["results"]["SphereFace (A-Softmax, m = 2)"]
    held_out = [row["held_out/accuracy"] for row in rows(tmp_path, "train")]
    assert len(held_out) == 3 and all(0 <= value <= 1 for value in held_out)
    assert held_out[-1] == sum(verified["accuracy"]) / len(verified["accuracy"])
    assert not any("held_out/accuracy" in row for row in rows(tmp_path, "finetune"))
    assert "classifier: loaded" in answer.err and "the network is initialised from" in answer.err
    tuned = manifest(tmp_path, "finetune")
    assert tuned["counts"]["classifier"] == "loaded" and set(tuned["inputs"]) == {"crops", "start"}
    (head,) = (tmp_path / "cache/finetune").glob("*/head.safetensors")
    tensors = load_tensors(head)
    assert tensors["weight"].shape == (4, 16) and int(tensors["iteration"]) == 2004
    assert torch.isfinite(tensors["weight"]).all()


@pytest.mark.slow
def test_epochs_are_converted_to_steps_and_different_people_need_a_new_classifier(
    tiny: Path, tmp_path: Path, sfplus: Sfplus
) -> None:
    first = ["run", tiny, "train.epochs=2", "--until", "train", "--workspace", tmp_path, "--device", "cpu"]
    answer = sfplus(*first)
    assert answer.code == 0, answer.err
    counts = manifest(tmp_path, "train")["counts"]
    assert counts["steps"] == -(-2 * counts["crops"] // 8)
    (model,) = [path for path in (tmp_path / "cache/train").iterdir() if path.is_dir()]
    tiny.write_text(tiny.read_text().replace("people: 8", "people: 6"))
    recipe = tiny.with_name("again.yaml")
    text = tiny.read_text()
    recipe.write_text(text[: text.index("train:")] + text[text.index("finetune:") :])
    words = [f"finetune.model={model}", "--until", "finetune", "--workspace", tmp_path, "--device", "cpu"]
    answer = sfplus("run", recipe, *words)
    assert answer.code == 0, answer.err
    assert "classifier: new: the start was trained on other people (4)" in answer.err


def test_held_out_pairs_are_embedded_on_the_device_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several processes this may differ from the requested device; the network must not be moved."""
    write_parquet(tmp_path / CROP_TABLE, {"photo": ["a.jpg", "b.jpg"], "crop": ["a.jpg", "b.jpg"], "how": ["face"] * 2})
    (tmp_path / "pairs.txt").write_text("a b 1 0\na b 0 0\na b 1 1\na b 0 1\n")
    manifest = {"settings": {"template": "sphereface-112x96"}}
    inputs = {"held_out": Artefact(tmp_path, manifest), "pairs": InputFile(tmp_path / "pairs.txt")}
    devices: list[str] = []

    def embed(network: torch.nn.Module, batches: object, device: object) -> list[np.ndarray]:
        devices.append(str(device))
        return [np.eye(2, 4, dtype=np.float32)]

    monkeypatch.setattr("sfplus.stages.train.embed_batches", embed)
    job = Job(None, inputs, tmp_path, RunContext(tmp_path, Console(quiet=True), "cpu"))
    crops = SimpleNamespace(height=112, width=96)
    held_out = train._held_out(job, train._TrainingSet(["a"], crops, "sphereface-112x96"))  # type: ignore[arg-type]
    assert 0 <= held_out(torch.nn.Linear(2, 2, device="meta"))["accuracy"] <= 1 and devices == ["meta"]


TRAIN = """train: {network: sphereface4, width: 0.125, feature_size: 8, head: {m: 1}, batch_size: 4, base_lr: 0.01,
  steps: [], max_iter: 2, log_every: 1}
detect: {min_face: 60, factor: 0.7}
"""


def run_train(sfplus: Callable, photos: Path, folder: Path, *settings: str):
    (folder / "train.yaml").write_text(TRAIN)
    return sfplus("train", folder / "train.yaml", f"train.photos={photos}", *settings, "--workspace", folder / "data")


def test_people_with_one_photo_each_are_enough(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    for photo in sorted(drawn.glob("*/*_0001.jpg")):
        (tmp_path / "one" / photo.parent.name).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "one" / photo.parent.name)
    answer = run_train(sfplus, tmp_path / "one", tmp_path)
    assert answer.code == 0, answer.err


def test_only_an_energy_with_a_weight_states_its_dose(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    for weight in (0, 1):
        answer = run_train(sfplus, drawn, tmp_path, f"train.energy={{weight: {weight}}}")
        assert answer.code == 0, answer.err
        assert (f"energy: a weight of {weight} can turn" in answer.err) == (weight > 0)


def test_a_single_person_is_refused(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    shutil.copytree(drawn / "person_000", tmp_path / "only/person_000")
    answer = run_train(sfplus, tmp_path / "only", tmp_path)
    assert (
        answer.code == 2
        and "contains photos of 1 person; training and identification need at least two people" in answer.err
    )


def test_photos_outside_the_folder_of_a_person_are_refused(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    answer = run_train(sfplus, drawn / "person_000", tmp_path)
    assert answer.code == 2 and "these photos are in no person's folder: person_000_0001.jpg, person" in answer.err
    assert "put the photos of each person into a folder" in answer.err and not (tmp_path / "data/cache").exists()


@pytest.mark.parametrize(("rule", "parts"), [("first-folder", "{person}/{part}"), ("last-folder", "{part}/{person}")])
def test_nested_folders_are_reported_and_a_rule_makes_them_one_person(
    rule: str, parts: str, drawn: Path, tmp_path: Path, sfplus: Callable
) -> None:
    for number, photo in enumerate(sorted(drawn.rglob("*.jpg"))):
        folder = tmp_path / "photos" / parts.format(person=photo.parent.name, part=f"part{number % 2}")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder)
    answer = run_train(sfplus, tmp_path / "photos", tmp_path)
    assert answer.code == 0 and "12 photos of 8 people" in answer.err, answer.err
    assert f"people={rule} (4)" in answer.err and "each of these folders counts as a person: p" in answer.err
    before = {path.name for path in (tmp_path / "data/cache/train").iterdir()}
    answer = run_train(sfplus, tmp_path / "photos", tmp_path, f"train.people={rule}")
    assert answer.code == 0 and "12 photos of 4 people" in answer.err and "warning" not in answer.err, answer.err
    (model,) = (path for path in (tmp_path / "data/cache/train").glob("*/") if path.name not in before)
    assert (model / "people.txt").read_text().split() == [f"person_{number:03}" for number in range(4)]
    assert json.loads((model / "config.json").read_text())["people"] == 4


def test_people_without_a_crop_are_named(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    shutil.copytree(drawn, tmp_path / "photos")
    for name in ("nobody", "no one"):
        (tmp_path / "photos" / name).mkdir()
        Image.new("RGB", (200, 200), "grey").save(tmp_path / "photos" / name / "1.jpg")
    answer = run_train(sfplus, tmp_path / "photos", tmp_path)
    assert answer.code == 0 and "14 photos of 6 people" in answer.err
    assert "not trained on, because no photo gave a crop: no one, nobody" in answer.err


def test_names_to_leave_out_that_nobody_has_are_named(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    answer = run_train(sfplus, drawn, tmp_path, "train.exclude=[person_000, in-lfw.txt]")
    assert answer.code == 0 and manifest(tmp_path / "data", "train")["counts"]["people"] == 3, answer.err
    assert "not left out, because no crop is in a folder of this name: in-lfw.txt" in answer.err


def test_a_file_of_names_in_a_list_is_refused(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    (tmp_path / "in-lfw.txt").write_text("person_000\n")
    answer = run_train(sfplus, drawn, tmp_path, f"train.exclude=[{tmp_path / 'in-lfw.txt'}]")
    assert answer.code == 2 and "in-lfw.txt' is a file: give it alone, not in a list" in answer.err
    answer = run_train(sfplus, drawn, tmp_path, f"train.exclude={tmp_path / 'in-lfw.txt'}")
    assert answer.code == 0 and manifest(tmp_path / "data", "train")["counts"]["people"] == 3, answer.err


@pytest.mark.slow
def test_held_out_people_in_nested_folders_are_not_distilled_on(tmp_path: Path, sfplus: Callable) -> None:
    photos, recipe = tmp_path / "photos", tmp_path / "r.yaml"
    write_portraits(tmp_path / "drawn", 6, 2, 0)
    for photo in (tmp_path / "drawn").rglob("*.jpg"):
        folder = photos / photo.parent.name / f"album {photo.stem}"
        folder.mkdir(parents=True)
        shutil.copy(photo, folder)
    save_untrained(tmp_path / "teacher")
    solver = "batch_size: 4, steps: [], max_iter: 2, log_every: 1"
    small = "people: first-folder, network: sphereface4, width: 0.125, feature_size: 8"
    teacher = f"energy: {{weight: 0}}, teacher: {{model: {tmp_path / 'teacher'}, classify: false}}"
    recipe.write_text(
        f"train: {{photos: {photos}, {small}, {solver}}}\nfinetune: {{{teacher}, {solver}}}\n"
        "verify: {}\ndetect: {min_face: 60, factor: 0.7}\n"
    )
    answer = sfplus("run", recipe, "--until", "finetune", "--workspace", tmp_path / "data", "--device", "cpu")
    assert answer.code == 0 and "4 people with 8 photos are held out" in answer.err, answer.err
    trained, tuned = (manifest(tmp_path / "data", stage)["counts"] for stage in ("train", "finetune"))
    assert trained["crops"] == tuned["crops"] <= 4


def test_photos_in_no_folder_are_not_excluded() -> None:
    settings = TrainSettings(exclude=("a", "b/c"), people="first-folder")
    names = ["x.jpg", "a/x.jpg", "a/b/x.jpg", "b/c/x.jpg", "c/a/x.jpg"]
    assert [name for name in names if not train._is_excluded(name, settings)] == ["x.jpg", "b/c/x.jpg", "c/a/x.jpg"]


@pytest.mark.parametrize(
    ("listed", "answer"),
    [
        (None, "loaded"),
        ("a\nb\n", "loaded"),
        ("a\nc\n", "new: the start was trained on other people (2)"),
        ("b\na\n", "new: the start was trained on other people (2)"),
    ],
)
def test_a_classifier_of_other_people_is_not_loaded(tmp_path: Path, listed: str | None, answer: str) -> None:
    start, head = HEADS["softmax"](4, 2), HEADS["softmax"](4, 2)
    save_file(dict(start.state_dict()), tmp_path / "head.safetensors")
    if listed is not None:
        (tmp_path / "people.txt").write_text(listed)
    assert train._load_head(tmp_path, head, ["a", "b"]) == {"classifier": answer}
    assert torch.equal(start.weight, head.weight) == (answer == "loaded")
