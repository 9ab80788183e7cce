"""What verification and training make of photos without faces, missing photos, malformed pairs and odd folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from sfplus.datasets.pairs import draw_pairs, read_pairs, write_pairs
from sfplus.images import list_photos
from sfplus.io.tables import read_parquet
from sfplus.networks import create
from sfplus.weights.model_folder import save_model


@pytest.fixture
def task(drawn: Path, tmp_path: Path) -> Path:
    """Photos, pairs and an untrained model; one photo of the pairs shows no face."""
    shutil.copytree(drawn, tmp_path / "photos")
    pairs = draw_pairs(list_photos(tmp_path / "photos"), 2, 3, 0)
    write_pairs(tmp_path / "pairs.txt", pairs)
    Image.fromarray(np.full((250, 250, 3), 128, np.uint8)).save(tmp_path / "photos" / f"{pairs.left[0]}.jpg")
    torch.manual_seed(0)
    shape = {"network": "sphereface4", "feature_size": 16, "width": 0.125, "template": "sphereface-112x96"}
    save_model(tmp_path / "model", create("sphereface4", feature_size=16, width=0.125), shape)
    return tmp_path


def verify(sfplus: Callable, task: Path, *more: str):
    return sfplus(
        "verify", task / "photos", task / "pairs.txt", "--model", task / "model", "--workspace", task / "data", *more
    )


def report(task: Path) -> dict:
    return json.loads((task / "data/runs/lfw/report.json").read_text())


def test_undetected_photos_get_their_centre_by_default(task: Path, sfplus: Callable) -> None:
    answer = verify(sfplus, task)
    assert answer.code == 0 and "12 pairs" in answer.out
    assert "The centre of the photo is used instead (1 photos" in report(task)["undetected"]["policy"]
    assert len(report(task)["undetected"]["names"]) == 1


def test_undetected_photos_can_be_skipped(task: Path, sfplus: Callable) -> None:
    answer = verify(sfplus, task, "--undetected", "skip")
    kept = len(next(iter(report(task)["results"].values()))["scores"])
    assert answer.code == 0 and 6 <= kept < 12 and f"({12 - kept} pairs)" in report(task)["undetected"]["policy"]


def test_undetected_photos_can_stop_it(task: Path, sfplus: Callable) -> None:
    answer = verify(sfplus, task, "--undetected", "fail")
    assert answer.code == 1 and "1 of its photos have no crop" in answer.err and "verify.undetected=skip" in answer.err


def test_paths_are_taken_as_they_are_and_pairs_are_found(
    task: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that YAML would read as something else: a comment, a number, a truth value."""
    monkeypatch.chdir(task)
    for name in ("LFW #2", "2024", "no", "x: y", "'quoted'"):
        (task / "photos").rename(task / name)
        answer = sfplus("verify", name, "--model", "model", "--workspace", task / "data")
        assert answer.code == 0 and "12 pairs" in answer.out, (name, answer.err)
        (task / name).rename(task / "photos")
    (task / "pairs.txt").unlink()
    answer = sfplus("verify", "photos", "--model", "model")
    assert answer.code == 2 and "there is no pairs.txt in it or beside it" in answer.err


def test_a_model_that_does_not_say_its_template(task: Path, sfplus: Callable) -> None:
    config = json.loads((task / "model/config.json").read_text())
    del config["template"]
    (task / "model/config.json").write_text(json.dumps(config))
    answer = verify(sfplus, task)
    assert answer.code == 1 and 'does not name a template; add "template"' in answer.err


def test_a_damaged_artefact_says_what_to_do(task: Path, sfplus: Callable) -> None:
    assert verify(sfplus, task).code == 0
    for table in (task / "data/cache/align").glob("*/crops.parquet"):
        table.unlink()
    shutil.rmtree(task / "data/cache/embed")
    answer = verify(sfplus, task)
    assert answer.code == 1 and "crops.parquet: is missing or damaged; delete" in answer.err


def test_photos_that_were_not_used_are_counted_at_the_end(task: Path, sfplus: Callable) -> None:
    (task / "photos/person_000/broken.jpg").write_bytes(b"")
    answer = verify(sfplus, task)
    assert answer.code == 0 and "1 photos without a face, 1 failed" in answer.err and "failures.jsonl" in answer.err


def test_a_photo_of_the_pairs_that_is_not_there(task: Path, sfplus: Callable) -> None:
    name = (task / "pairs.txt").read_text().splitlines()[2].split("\t")[0]
    shutil.rmtree(task / "photos" / name)
    answer = verify(sfplus, task)
    assert answer.code == 1 and "of its photos have no crop, the first is" in answer.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "pairs.txt"),
        ("2\t3\nperson_000\t1\n", "pairs.txt"),
        ("1\t1\nperson_000\t1\tx\nperson_000\t1\tperson_001\t1\n", "pairs.txt:2"),
        ("1\t1\n../evil\t1\t2\nperson_000\t1\tperson_001\t1\n", "pairs.txt:2"),
    ],
)
def test_malformed_pairs_are_found_before_anything_is_started(
    text: str, says: str, task: Path, sfplus: Callable
) -> None:
    (task / "pairs.txt").write_text(text)
    answer = verify(sfplus, task)
    assert answer.code == 1 and says in answer.err and "Traceback" not in answer.err
    assert not (task / "data").exists()


def test_a_model_that_was_trained_on_other_crops(task: Path, sfplus: Callable) -> None:
    config = (task / "model/config.json").read_text()
    (task / "model/config.json").write_text(config.replace("sphereface-112x96", "arcface-112x112"))
    answer = verify(sfplus, task)
    assert answer.code == 2 and "the model was trained on arcface-112x112" in answer.err


@pytest.mark.parametrize("protocol", ["insightface", "opensphere", "exact"])
def test_other_protocols(protocol: str, task: Path, sfplus: Callable) -> None:
    photos, pairs, model = task / "photos", task / "pairs.txt", task / "model"
    settings = (
        f"verify.photos={photos}",
        f"verify.pairs={pairs}",
        f"embed.model={model}",
        f"verify.protocol={protocol}",
    )
    answer = sfplus("run", "lfw", *settings, "--workspace", task / "data")
    assert answer.code == 0 and f"{protocol} protocol, 12 pairs" in answer.out, answer.err
    result = next(iter(report(task)["results"].values()))
    assert result["protocol"] == protocol and len(result["accuracy"]) == (1 if protocol == "opensphere" else 2)
    features = np.concatenate([load_file(f)["features"] for f in (task / "data/cache/embed").glob("*/*.safetensors")])
    index = read_parquet(next((task / "data/cache/embed").glob("*/index.parquet")))["photo"]
    row = {name.removesuffix(".jpg"): i for i, name in enumerate(index)}
    sums = features[:, : features.shape[1] // 2] + features[:, features.shape[1] // 2 :]
    sums = np.float64(sums) / np.linalg.norm(np.float64(sums), axis=1, keepdims=True)
    listed = read_pairs(pairs)
    cosines = [sums[row[a]] @ sums[row[b]] for a, b in zip(listed.left, listed.right, strict=True)]
    np.testing.assert_allclose(result["scores"], cosines, atol=1e-6)


def test_view_1_is_verified_on_its_test_pairs(task: Path, sfplus: Callable) -> None:
    lines = (task / "pairs.txt").read_text().splitlines()
    (task / "pairsDevTest.txt").write_text("\n".join(["3", *lines[1:7]]) + "\n")
    (task / "pairsDevTrain.txt").write_text("\n".join(["3", *lines[7:13]]) + "\n")
    arguments = (task / "photos", task / "pairsDevTest.txt", "--model", task / "model", "--workspace", task / "data")
    answer = sfplus("verify", *arguments)
    assert answer.code == 0 and "sphereface protocol, 6 pairs" in answer.out, answer.err
    result = next(iter(report(task)["results"].values()))
    assert len(result["scores"]) == 6 and len(result["accuracy"]) == 1


TRAIN = """train: {network: sphereface4, width: 0.125, feature_size: 8, head: {m: 1}, batch_size: 4, base_lr: 0.01,
  steps: [], max_iter: 2, log_every: 1}
detect: {min_face: 60, factor: 0.7}
"""


def train(sfplus: Callable, photos: Path, folder: Path):
    (folder / "train.yaml").write_text(TRAIN)
    return sfplus("train", folder / "train.yaml", f"train.photos={photos}", "--workspace", folder / "data")


def test_people_with_one_photo_can_be_trained_on(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    for photo in sorted(drawn.glob("*/*_0001.jpg")):
        (tmp_path / "one" / photo.parent.name).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "one" / photo.parent.name)
    answer = train(sfplus, tmp_path / "one", tmp_path)
    assert answer.code == 0, answer.err


def test_one_person_cannot_be_trained_on(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    shutil.copytree(drawn / "person_000", tmp_path / "only/person_000")
    answer = train(sfplus, tmp_path / "only", tmp_path)
    assert answer.code == 1 and "contains photos of 1 person; training needs at least two people" in answer.err


def test_photos_outside_any_person_cannot_be_trained_on(drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    answer = train(sfplus, drawn / "person_000", tmp_path)
    assert answer.code == 1 and "is not in a person's folder; put the photos of each person into a folder" in answer.err
