"""A verdict on held-out people of the user's own photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.datasets.pairs import read_pairs
from sfplus.datasets.portraits import write_portraits
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.pipeline.hold_out import hold_out
from sfplus.pipeline.plan import check_inputs, plan
from sfplus.recipes.load import load_recipe
from sfplus.recipes.recipe import Recipe

RECIPE = "sample: {people: 8, verify_people: 4}\ntrain: {}\nfinetune: {}\nverify: {}\n"


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Recipe]:
    """Return a recipe with overrides after people were held out, in the workspace `data`."""
    (tmp_path / "r.yaml").write_text(RECIPE)

    def run(*overrides: str, context: RunContext | None = None) -> Recipe:
        return hold_out(load_recipe(tmp_path / "r.yaml", overrides), tmp_path / "data", context)

    return run


def make_people(root: Path, counts: list[int]) -> Path:
    """Create a folder of people with that many photos, of which only the names matter."""
    for person, count in enumerate(counts):
        for number in range(count):
            file = root / f"person {person:02}" / f"IMG {number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
    return root


def test_people_are_held_out_by_the_seed_and_left_out_of_training(
    prepare: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sfplus")
    photos = make_people(tmp_path / "photos", [3] * 30)
    recipe = prepare(f"train.photos={photos}", context=RunContext(tmp_path / "data", Console()))
    assert recipe.train and recipe.verify and recipe.verify.pairs and recipe.sample is None
    pairs = read_pairs(recipe.verify.pairs)
    held_out = {name.partition("/")[0] for name in pairs.photos}
    assert len(held_out) == 6 and set(recipe.train.exclude) == held_out and pairs.folds == 3
    assert recipe.verify.photos == photos and recipe.verify.pairs.stem == "held-out people of photos"
    message = "6 people with 18 photos are held out for the verdict, chosen by seed 0, for 30 pairs in 3 folds"
    assert f"{message}; 24 people to train on" in caplog.text
    again, other = prepare(f"train.photos={photos}"), prepare(f"train.photos={photos}", "verify.seed=1")
    assert again == recipe and other.train and other.train.exclude != recipe.train.exclude


def test_excluded_people_are_not_held_out(prepare: Callable[..., Recipe], tmp_path: Path) -> None:
    photos = make_people(tmp_path / "photos", [2] * 8)
    recipe = prepare(f"train.photos={photos}", "train.exclude=[person 00, person 01]", "finetune.exclude=[person 00]")
    assert recipe.train and recipe.finetune
    assert len(recipe.train.exclude) == 6 and len(recipe.finetune.exclude) == 5
    assert len(set(recipe.train.exclude)) == 6


def test_people_with_one_photo_are_trained_on(prepare: Callable[..., Recipe], tmp_path: Path) -> None:
    photos = make_people(tmp_path / "photos", [2] * 4 + [1] * 3)
    recipe = prepare(f"train.photos={photos}")
    assert recipe.train and recipe.train.exclude == tuple(f"person {number:02}" for number in range(4))


def test_albums_of_a_person_are_held_out_together(prepare: Callable[..., Recipe], tmp_path: Path) -> None:
    for person in range(6):
        for album in ("a", "b"):
            file = tmp_path / "photos" / f"p{person}" / album / "1.jpg"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"x")
    recipe = prepare(f"train.photos={tmp_path / 'photos'}", "train.people=first-folder")
    assert recipe.train and recipe.verify and recipe.verify.pairs
    assert len(recipe.train.exclude) == 4 and all("/" not in person for person in recipe.train.exclude)
    pairs = read_pairs(recipe.verify.pairs)
    for left, right, same in zip(pairs.left, pairs.right, pairs.same, strict=True):
        assert (left.split("/")[0] == right.split("/")[0]) == same


@pytest.mark.parametrize("override", ["verify=null", "train.photos=null", "train.teacher={model: m, classify: false}"])
def test_otherwise_the_recipe_stays_as_it_is(prepare: Callable[..., Recipe], tmp_path: Path, override: str) -> None:
    photos = make_people(tmp_path / "photos", [2] * 8)
    recipe = prepare(f"train.photos={photos}", "finetune=null", override)
    assert recipe == load_recipe(tmp_path / "r.yaml", [f"train.photos={photos}", "finetune=null", override])
    given = [f"train.photos={photos}", "verify.photos=a", "verify.pairs=b"]
    assert prepare(*given) == load_recipe(tmp_path / "r.yaml", given)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([2] * 5, "has 5 people, 5 of them with two photos or more: a verdict on held-out people needs 4 such people"),
        ([1] * 9, "has 9 people, 0 of them with two photos or more"),
        ([2, 2, 2, 1, 1, 1], "has 6 people, 3 of them with two photos or more"),
        ([3], "contains photos of 1 person; training and identification need at least two people"),
        ([], "is not a folder of photos; check the path"),
    ],
)
def test_too_few_people_are_one_line(
    prepare: Callable[..., Recipe], tmp_path: Path, counts: list[int], message: str
) -> None:
    photos = make_people(tmp_path / "photos", counts)
    with pytest.raises(UsageError) as caught:
        prepare(f"train.photos={photos}")
    assert str(caught.value).startswith(f"{photos}: {message}") and "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def make_photos(root: Path, *photos: str) -> Path:
    for photo in photos:
        (root / photo).parent.mkdir(parents=True, exist_ok=True)
        (root / photo).write_bytes(b"x")
    return root


def test_people_whom_the_start_or_the_teacher_knows_are_not_held_out(
    prepare: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sfplus")
    photos, model = make_people(tmp_path / "photos", [2] * 10), tmp_path / "model"
    model.mkdir()
    (model / "people.txt").write_text("".join(f"person {number:02}\n" for number in range(6)))
    context = RunContext(tmp_path / "data", Console())
    start = ["train=null", f"finetune.photos={photos}", f"finetune.model={model}"]
    recipe = prepare(*start, context=context)
    unknown = tuple(f"person {number:02}" for number in range(6, 10))
    assert recipe.finetune and recipe.finetune.exclude == unknown
    assert f"not eligible for the verdict, and trained on: 6 people in people.txt of {model}" in caplog.text
    recipe = prepare("finetune=null", f"train.photos={photos}", f"train.teacher={model}")
    assert recipe.train and recipe.train.exclude == unknown
    (model / "people.txt").write_text("".join(f"person {number:02}\n" for number in range(7)))
    with pytest.raises(UsageError, match=r"of whom 3 can be held out.* 7 people in people\.txt of .*; give verify"):
        prepare(*start)


@pytest.mark.parametrize("rule", ["first-folder", "last-folder"])
def test_people_are_known_by_any_rule_for_nested_folders(
    prepare: Callable[..., Recipe], tmp_path: Path, rule: str
) -> None:
    folder = {"first-folder": "{}/album", "last-folder": "part/{}"}[rule]
    names = [f"{folder.format(f'p{person}')}/{number}.jpg" for person in range(9) for number in range(2)]
    photos, model = make_photos(tmp_path / "photos", *names), tmp_path / "model"
    model.mkdir()
    (model / "people.txt").write_text("".join(f"{folder.format(f'p{person}')}\n" for person in range(5)))
    recipe = prepare("train=null", f"finetune={{photos: {photos}, model: {model}, people: {rule}}}")
    assert recipe.finetune and recipe.finetune.exclude == ("p5", "p6", "p7", "p8")


def test_people_whose_names_a_list_cannot_hold_are_trained_on(
    prepare: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sfplus")
    odd = ["#1 Fan", 'q"uote', " sp", "tab\there", "'quoted", "back\\slash", "A:", "u\u0308x", "\u00fcx"]
    plain = ["O'Neil, Ann", "B; C", "D # E", "\u5f20\u4f1f", "space "]
    names = [f"{person}/{photo}.jpg" for person in [*odd, *plain] for photo in ("a.b", "c d,e")]
    photos = make_photos(tmp_path / "photos", *names)
    for seed in range(5):
        context = RunContext(tmp_path / "data", Console())
        recipe = prepare(f"train.photos={photos}", f"verify.seed={seed}", context=context)
        assert recipe.train and recipe.verify and recipe.verify.pairs
        assert len(recipe.train.exclude) == 4 and set(recipe.train.exclude) <= set(plain)
        check_inputs(plan(recipe), tmp_path / "data")
    assert "trained on: 9 people with names, or names of photos, that a list of pairs cannot hold" in caplog.text


def test_one_of_two_photos_is_paired_whose_names_differ_only_in_the_extension(
    prepare: Callable[..., Recipe], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", *[f"{p}/{n}" for p in "abcdef" for n in ("x.jpg", "x.png", "y.jpg")])
    recipe = prepare(f"train.photos={photos}")
    assert recipe.verify and recipe.verify.pairs
    assert {name.partition("/")[2] for name in read_pairs(recipe.verify.pairs).photos} == {"x.jpg", "y"}
    check_inputs(plan(recipe), tmp_path / "data")


@pytest.mark.slow
def test_one_command_ends_in_a_verdict_on_own_photos(sfplus: Callable, tiny: Path, tmp_path: Path) -> None:
    photos, data = tmp_path / "mine", tmp_path / "data"
    write_portraits(photos, people=6, photos=2, seed=0)
    checked = sfplus("recipes", "check", tiny, f"train.photos={photos}")
    assert checked.code == 0 and "sample" not in checked.out and "4 people with 8 photos are held out" in checked.err
    answer = sfplus("run", tiny, f"train.photos={photos}", "--workspace", data)
    assert answer.code == 0, answer.err
    assert "4 people with 8 photos are held out" in answer.err and "8 pairs)" in answer.out
    (manifest,) = (json.loads(file.read_bytes()) for file in data.glob("cache/train/*/manifest.json"))
    assert manifest["counts"]["people"] == 2
    assert "held-out people of mine" in (data / "runs" / "tiny" / "report.html").read_text()
    assert not (data / "cache" / "sample").exists()
    again = sfplus("run", tiny, f"train.photos={photos}", "--workspace", data)
    assert again.code == 0 and "done" not in again.err
