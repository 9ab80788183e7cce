"""`sfplus pairs` draws pairs from a folder of people and holds these people out of training."""

import json

import numpy as np
import pytest

from sfplus.datasets.identities import read_person_list
from sfplus.datasets.pairs import read_pairs
from sfplus.datasets.portraits import write_portraits


@pytest.fixture
def photos(tmp_path):
    """A folder of 12 people with 1 to 6 photos, of which only the names matter."""
    for person in range(12):
        for number in range(1 + person % 6):
            file = tmp_path / "photos" / f"person {person:02}" / f"IMG {number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
    return tmp_path / "photos"


def test_each_person_is_in_one_fold(sfplus, photos, tmp_path):
    answer = sfplus("pairs", photos, tmp_path / "pairs.csv", "--folds", 3, "--per-fold", 5)
    assert answer.code == 0 and "30 pairs of 12 people, 3 folds of 10, seed 0" in answer.out
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert np.bincount(pairs.fold).tolist() == [10, 10, 10] and pairs.same.sum() == 15
    people = [{name.split("/")[0] for name in (*left, *right)} for left, right in (
        (np.array(pairs.left)[pairs.fold == fold], np.array(pairs.right)[pairs.fold == fold]) for fold in range(3)
    )]  # fmt: skip
    assert not people[0] & people[1] and not people[1] & people[2] and not people[0] & people[2]
    for left, right, same in zip(pairs.left, pairs.right, pairs.same, strict=True):
        assert (left.split("/")[0] == right.split("/")[0]) == same


def test_draws_as_many_as_there_can_be(sfplus, photos, tmp_path):
    answer = sfplus("pairs", photos, tmp_path / "pairs.csv", "--folds", 2)
    assert answer.code == 0 and "120 pairs of 12 people, 2 folds of 60" in answer.out  # 50 of each kind are too many


def test_the_same_seed_gives_the_same_list(sfplus, photos, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert sfplus("pairs", photos, tmp_path / name, "--folds", 2, "--seed", seed, "--people", 6).code == 0
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--people", 99), "photos: has 10 people with two photos or more, not 99; give a smaller --people"),
        (("--folds", 2, "--per-fold", 300), "photos for only "),
        (("--folds", 200), "photos for only 0 of 1 pair"),
    ],
)
def test_too_few_people_are_one_line(sfplus, photos, tmp_path, arguments, message):
    answer = sfplus("pairs", photos, tmp_path / "pairs.csv", *arguments)
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "pairs.csv").exists()


def test_nothing_is_overwritten(sfplus, photos, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    answer = sfplus("pairs", photos, tmp_path / "pairs.csv", "--folds", 2, "--held-out", tmp_path / "mine.txt")
    assert answer.code == 2 and "already exists" in answer.err
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / "pairs.csv").exists()


@pytest.mark.slow
def test_a_model_is_verified_on_people_that_it_has_not_seen(sfplus, tiny, tmp_path):
    photos, data = tmp_path / "photos", tmp_path / "data"
    pairs, held_out = tmp_path / "pairs.csv", tmp_path / "held-out.txt"
    write_portraits(photos, people=6, photos=2, seed=0)
    answer = sfplus("pairs", photos, pairs, "--people", 4, "--held-out", held_out, "--folds", 2)
    assert answer.code == 0 and f"train.exclude={held_out}" in answer.out
    people = read_person_list(held_out)
    assert len(people) == 4
    assert {name.split("/")[0] for name in read_pairs(pairs).photos} <= set(people)
    sources = (
        f"train.photos={photos}",
        f"train.exclude={held_out}",
        f"verify.photos={photos}",
        f"verify.pairs={pairs}",
    )
    answer = sfplus("run", tiny, *sources, "sample=null", "--workspace", data)
    assert answer.code == 0, answer.err
    (manifest,) = (json.loads(file.read_bytes()) for file in data.glob("cache/train/*/manifest.json"))
    assert manifest["counts"]["people"] == 2
