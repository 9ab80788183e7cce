"""Recipes of pictures: a classifier, a generator and its judge, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sfplus.errors import RecipeError
from sfplus.pipeline.plan import plan
from sfplus.recipes.load import find_recipe, load_recipe, recipe_names, small_settings
from sfplus.recipes.steps import StepOutput

CLASSIFY = """# A classifier for tests.
classify:
  data: {name: folder, root: PICTURES, pad: 0}
  network: cnn6
  width: 4
  energy: {mode: mhe}
  batch_size: 4
  base_lr: 0.01
  steps: []
  max_iter: 3
  log_every: 1
  test_every: 1
"""
GENERATE = """generate:
  data: {name: folder, root: PICTURES}
  width: 0.03125
  batch_size: 4
  max_iter: 2
  log_every: 1
  sample_every: 2
  scores: {samples: 8, splits: 2}
"""
REPORT = """report:
  title: Dark and light
  published:
    - {name: theirs, accuracy: 99, source: a paper}
    - {name: theirs, inception_score: 7.4, source: a README}
"""


@pytest.fixture
def write(image_folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    def _write(text: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(text.replace("PICTURES", str(image_folder)))
        return path

    return _write


def test_a_classifier(write: Callable[[str], Path], tmp_path: Path, sfplus: Callable) -> None:
    words = ["run", write(CLASSIFY + REPORT), "max_iter=2", "--workspace", tmp_path / "data", "--device", "cpu"]
    answer = sfplus(*words)
    assert answer.code == 0, answer.err
    folder = tmp_path / "data/runs/small"
    assert answer.out.startswith("classify: accuracy ") and answer.out.endswith(f"result: {folder}/result.md\n")
    text = (folder / "result.md").read_text()
    assert "# Dark and light" in text and "| published: theirs | | 99.00 |" in text and "max\\_iter" not in text
    assert "# changed on the command line: max_iter=2" in text and "sfplus run" in text
    result = json.loads((folder / "result.json").read_bytes())
    assert 0 <= result["accuracy"] <= result["best_accuracy"] <= 1 and (folder / "curves.png").is_file()
    (folder / "plane.png").write_bytes(b"of an earlier run")
    again = sfplus(*words)
    assert not (folder / "plane.png").exists()
    assert "fresh" in again.err and "done" not in again.err and again.out == answer.out

    status = sfplus("status", write(CLASSIFY + REPORT), "energy.power=0", "--workspace", tmp_path / "data").out
    assert status.split()[:2] == ["classify", "stale"] and "energy.power: 2 -> 0" in status


def test_a_generator_and_its_judge(write: Callable[[str], Path], tmp_path: Path, sfplus: Callable) -> None:
    words = [write(CLASSIFY + GENERATE + REPORT), "--workspace", tmp_path / "data", "--device", "cpu"]
    answer = sfplus("sweep", *words, "energy=null,{}", "--seeds", 2)
    assert answer.code == 0, answer.err
    data = json.loads((tmp_path / "data/runs/small-sweep/sweep.json").read_bytes())
    assert data["metric"] == "surrogate_score"
    assert [row["label"] for row in data["rows"]] == ["energy=null", "energy={}"]
    for row in data["rows"]:  # an Inception score's formula lies between 1 and the number of classes
        assert all(1 <= value <= 2 for value in row["metrics"]["surrogate_score"]["values"])
    assert len(list((tmp_path / "data/cache/classify").glob("*/manifest.json"))) == 1  # one judge for all
    assert len(list((tmp_path / "data/cache/generate").glob("*/manifest.json"))) == 4
    one = sfplus("run", *words)
    assert "generate: surrogate score " in one.out and (tmp_path / "data/runs/small/samples.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "place", "expected"),
    [
        (["max_iter=7"], "generate.max_iter", 7),
        (["max_iter=7"], "classify.max_iter", 3),
        (["classify.max_iter=7"], "classify.max_iter", 7),
        (["data.root=elsewhere"], "generate.data.root", Path("elsewhere")),
        (["data.root=elsewhere"], "classify.data.root", Path("elsewhere")),
        (["energy.weight=0.5"], "generate.energy.weight", 0.5),
    ],
)
def test_keys_without_their_stage(
    overrides: list[str], place: str, expected: object, write: Callable[[str], Path]
) -> None:
    value: object = load_recipe(write(CLASSIFY + GENERATE), overrides)
    for part in place.split("."):
        value = getattr(value, part)
    assert value == expected


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (CLASSIFY, ["enrgy.power=0"], "classify.enrgy.power=0: unknown key 'classify.enrgy'; did you mean 'energy'?"),
        (
            CLASSIFY + "verify: {photos: a, pairs: b}\n",
            [],
            "verify is for recipes of faces, classify for recipes of images",
        ),
        (CLASSIFY, ["train.max_iter=1"], "train is for recipes of faces"),
        (CLASSIFY + "report: {published: [{name: a, source: b}]}\n", [], "is an accuracy or an inception_score"),
        ("verify: {photos: a, pairs: b}\n", ["energy.power=0"], "unknown key 'energy'"),
    ],
)
def test_faults(text: str, overrides: list[str], says: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write(text), overrides)
    assert says in str(error.value)


def test_missing_pictures_are_said_before_anything_runs(
    write: Callable[[str], Path], tmp_path: Path, sfplus: Callable
) -> None:
    path = write(CLASSIFY + GENERATE)
    answer = sfplus("run", path, "generate.data.root=nowhere", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "nowhere: there is no folder at this path; say where it is: data.root=" in answer.err
    answer = sfplus("run", path, "inception=nowhere.pth", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "nowhere.pth: does not exist" in answer.err
    assert not (tmp_path / "data").exists()


def test_the_small_size(write: Callable[[str], Path], tmp_path: Path, sfplus: Callable) -> None:
    small = "small: {classify.max_iter: 1, classify.network: mnist6, report.published: []}\n"
    path = write(CLASSIFY + REPORT + small)
    words = [path, "--small", "--workspace", tmp_path / "data", "--device", "cpu"]
    assert sfplus("run", *words).code == 0
    text = (tmp_path / "data/runs/small-small/result.md").read_text()
    assert "# changed on the command line: classify.max_iter=1" in text
    assert "published: theirs" not in text and (tmp_path / "data/runs/small-small/plane.png").is_file()
    answer = sfplus("sweep", *words, "energy.mode=none,mhe")
    assert answer.code == 0 and answer.err.count("(fresh)") == 1, answer.err
    planes = Image.open(tmp_path / "data/runs/small-small-sweep/plane.png")
    assert planes.width > 1.5 * planes.height  # side by side
    answer = sfplus("run", write(CLASSIFY), "--small", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "this recipe has no small size" in answer.err


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(find_recipe(name)).small is not None])
def test_small_sizes_are_right(name: str) -> None:
    recipe = load_recipe(find_recipe(name), small_settings(find_recipe(name)))
    stage = recipe.generate or recipe.classify
    assert stage and stage.max_iter <= 8500


def test_plan(write: Callable[[str], Path]) -> None:
    steps = plan(load_recipe(write(CLASSIFY + GENERATE)))
    assert [step.name for step in steps] == ["classify", "generate"]
    assert steps[1].inputs["classifier"] == StepOutput("classify")
    assert [step.name for step in plan(load_recipe(write(GENERATE)))] == ["generate"]


def test_recipes_are_listed_in_two_groups_and_copied(tmp_path: Path, sfplus: Callable) -> None:
    faces, images = sfplus("recipes", "list").out.split("Images:\n")
    assert faces.startswith("Faces:\n  demo ") and "sphereface" not in images
    assert sorted(line.split()[0] for line in (faces + images).splitlines()[1:]) == recipe_names()
    assert sfplus("recipes", "copy", "demo", tmp_path / "mine.yaml").code == 0
    assert (tmp_path / "mine.yaml").read_bytes() == find_recipe("demo").read_bytes()
    answer = sfplus("recipes", "copy", "demo", tmp_path / "mine.yaml")
    assert answer.code == 2 and "already exists" in answer.err


@pytest.mark.parametrize("name", ["files", "folder"])
def test_what_cannot_be_downloaded_is_not_recommended_to_be(
    name: str, write: Callable[[str], Path], tmp_path: Path, sfplus: Callable
) -> None:
    words = [f"data.name={name}", "data.root=nowhere", "--workspace", tmp_path / "data"]
    for more in ([], ["data.download=true"]):
        answer = sfplus("run", write(CLASSIFY), *words, *more)
        assert answer.code == 2 and "nowhere: there is no folder at this path; say where it is: data.root" in answer.err
        assert "download" not in answer.err
