"""Verification with photos without a face, missing photos, malformed pairs, and each protocol."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_files import read_parquet
from safetensors.numpy import load_file
from slow_cases import mostly_slow
from untrained_models import save_untrained

from sfplus.datasets.pairs import draw_pairs, read_pairs, write_pairs
from sfplus.images import list_photos
from sfplus.io.console import quantity


@pytest.fixture
def task(drawn: Path, tmp_path: Path) -> Path:
    """Photos, pairs and an untrained model; one photo of the pairs shows no face."""
    shutil.copytree(drawn, tmp_path / "photos")
    pairs = draw_pairs(list_photos(tmp_path / "photos"), 2, 3, 0)
    write_pairs(tmp_path / "pairs.txt", pairs)
    Image.fromarray(np.full((250, 250, 3), 128, np.uint8)).save(tmp_path / "photos" / f"{pairs.left[0]}.jpg")
    save_untrained(tmp_path / "model")
    return tmp_path


def verify(sfplus: Callable, task: Path, *options: str):
    return sfplus(
        "verify", task / "photos", task / "pairs.txt", "--model", task / "model", "--workspace", task / "data", *options
    )


def report(task: Path) -> dict:
    (file,) = (task / "data/runs").glob("*/report.json")
    return json.loads(file.read_text())


def test_photos_without_a_face_get_a_centre_crop_by_default(task: Path, sfplus: Callable) -> None:
    answer = verify(sfplus, task)
    assert answer.code == 0 and "12 pairs" in answer.out
    assert "The centre of the photo is used instead (1 photo" in report(task)["undetected"]["policy"]
    assert len(report(task)["undetected"]["names"]) == 1


def test_pairs_with_photos_without_a_face_can_be_skipped(task: Path, sfplus: Callable) -> None:
    answer = verify(sfplus, task, "--undetected", "skip")
    kept = len(next(iter(report(task)["results"].values()))["scores"])
    assert (
        answer.code == 0
        and 6 <= kept < 12
        and f"({quantity(12 - kept, 'pair')})" in report(task)["undetected"]["policy"]
    )


def test_a_photo_without_a_face_can_be_an_error(task: Path, sfplus: Callable) -> None:
    answer = verify(sfplus, task, "--undetected", "fail")
    assert (
        answer.code == 1
        and "1 of its photos cannot be used, the first is" in answer.err
        and "--undetected skip" in answer.err
    )


@pytest.mark.parametrize("name", mostly_slow(["LFW #2", "2024", "no", "x: y", "'quoted'"], ["x: y"]))
def test_paths_are_not_parsed_as_yaml_and_pairs_txt_is_the_default_list(
    name: str, task: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YAML would read these names as a comment, a number, a boolean, a mapping and a quoted string."""
    monkeypatch.chdir(task)
    (task / "photos").rename(task / name)
    answer = sfplus("verify", name, "--model", "model", "--workspace", task / "data")
    assert answer.code == 0 and "12 pairs" in answer.out, answer.err
    (task / name).rename(task / "photos")
    (task / "pairs.txt").unlink()
    answer = sfplus("verify", "photos", "--model", "model")
    assert answer.code == 2 and "there is no pairs.txt in it or beside it" in answer.err


def test_a_model_without_a_template_is_refused_with_a_remedy(task: Path, sfplus: Callable) -> None:
    config = json.loads((task / "model/config.json").read_text())
    del config["template"]
    (task / "model/config.json").write_text(json.dumps(config))
    answer = verify(sfplus, task)
    assert answer.code == 1 and 'does not name a template; add "template"' in answer.err


@pytest.mark.slow
def test_damaged_artefacts_are_built_again_and_the_result_is_the_same(task: Path, sfplus: Callable) -> None:
    def contents() -> dict[str, str]:
        manifests = (task / "data/cache").glob("*/*/manifest.json")
        return {path.parent.as_posix(): json.loads(path.read_text())["content"] for path in manifests}

    assert verify(sfplus, task).code == 0
    expected = contents()
    for stage, name in (("align", "*.jpg"), ("embed", "*.safetensors"), ("verify", "scores.parquet")):
        (path, *_) = (task / "data/cache" / stage).rglob(name)
        changed = path.relative_to(task / "data/cache" / stage).as_posix().partition("/")[2]
        path.write_bytes(b"junk" + path.read_bytes()[4:])
        answer = verify(sfplus, task)
        assert answer.code == 0 and answer.err.count("it is built again") == 1, answer.err
        assert f"is damaged ({changed} was changed" in answer.err
        assert contents() == expected


def test_the_number_of_unused_photos_is_printed(task: Path, sfplus: Callable) -> None:
    (task / "photos" / f"{read_pairs(task / 'pairs.txt').right[-1]}.jpg").write_bytes(b"")
    answer = verify(sfplus, task, "--undetected", "skip")
    assert answer.code == 0 and "1 photo without a face, 1 failed" in answer.err and "failures.jsonl" in answer.err


def test_a_missing_photo_of_the_pairs_is_an_error(task: Path, sfplus: Callable) -> None:
    name = read_pairs(task / "pairs.txt").right[-1]
    (task / "photos" / f"{name}.jpg").unlink()
    answer = verify(sfplus, task)
    assert answer.code == 1 and f"names matches no photo of {task / 'photos'}: {name}" in answer.err
    assert not (task / "data").exists(), "nothing was detected"
    answer = verify(sfplus, task, "--undetected", "skip")
    assert answer.code == 0 and "(sphereface protocol, " in answer.out, answer.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.txt"),
        ("2\t3\nperson_000\t1\n", "pairs.txt"),
        ("1\t1\nperson_000\t1\tx\nperson_000\t1\tperson_001\t1\n", "pairs.txt:2"),
        ("1\t1\n../evil\t1\t2\nperson_000\t1\tperson_001\t1\n", "pairs.txt:2"),
    ],
)
def test_malformed_pairs_are_reported_before_a_stage_starts(
    text: str, message: str, task: Path, sfplus: Callable
) -> None:
    (task / "pairs.txt").write_text(text)
    answer = verify(sfplus, task)
    assert answer.code == 1 and message in answer.err and "Traceback" not in answer.err
    assert not (task / "data").exists()


def test_a_model_that_does_not_fit_the_crops_of_its_template_is_refused(task: Path, sfplus: Callable) -> None:
    config = (task / "model/config.json").read_text()
    (task / "model/config.json").write_text(config.replace("sphereface-112x96", "arcface-112x112"))
    answer = verify(sfplus, task)
    assert answer.code == 1 and "takes crops of 112x96, its template is arcface-112x112; name the" in answer.err


def test_a_recipe_that_aligns_to_another_template_than_the_model_is_refused(task: Path, sfplus: Callable) -> None:
    settings = {"verify.photos": "photos", "verify.pairs": "pairs.txt", "embed.model": "model"}
    words = [f"{key}={task / name}" for key, name in settings.items()]
    answer = sfplus("run", "lfw", *words, "align.template=arcface-112x112", "--workspace", task / "data")
    assert answer.code == 2 and "the crops follow arcface-112x112, the model was trained on sphereface" in answer.err


@pytest.mark.parametrize("protocol", mostly_slow(["insightface", "opensphere", "exact"], ["opensphere"]))
def test_the_scores_of_other_protocols_are_cosines_of_added_features(
    protocol: str, task: Path, sfplus: Callable
) -> None:
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
    pair_list = read_pairs(pairs)
    cosines = [sums[row[a]] @ sums[row[b]] for a, b in zip(pair_list.left, pair_list.right, strict=True)]
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


def test_features_without_mirror_images_are_compared_whole(task: Path, sfplus: Callable) -> None:
    config = task / "model" / "config.json"
    described = json.loads(config.read_text()) | {"preprocessing": {"mirror": False}}
    config.write_text(json.dumps(described))
    assert verify(sfplus, task, "--protocol", "exact").code == 0
    (features,) = (task / "data/cache/embed").glob("*/features.safetensors")
    values, index = load_file(features)["features"].astype(np.float64), read_parquet(features.parent / "index.parquet")
    assert values.shape[1] == 16
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    row_of = {photo: row for row, photo in enumerate(index["photo"])}
    (scores,) = (task / "data/cache/verify").glob("*/scores.parquet")
    table = read_parquet(scores)
    left, right = ([row_of[photo] for photo in table[side]] for side in ("left", "right"))
    np.testing.assert_allclose(table["score"], (values[left] * values[right]).sum(1), atol=1e-6)
