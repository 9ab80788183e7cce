"""Public sets are described where their folder is missing, and each is in data/README.md or a recipe."""

from pathlib import Path

import pytest

from sfplus.datasets.known_sets import KNOWN_SETS, describe_missing

ROOT = Path(__file__).parents[2]


def test_the_descriptions_belong_to_folders_of_recipes():
    recipes = "".join(path.read_text("utf-8").lower() for path in (ROOT / "pipelines").glob("*.yaml"))
    assert all(f"data/{name}" in recipes for name in KNOWN_SETS)


def test_each_set_is_described_once():
    text = describe_missing([Path("data/lfw"), Path("data/lfw/pairs.txt"), Path("my/CASIA-WebFace")])
    assert text == f"{KNOWN_SETS['lfw']}; {KNOWN_SETS['casia-webface']}"
    assert describe_missing([Path("my/photos")]) == ""


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("sphereface-plus-m4", "data/CASIA-WebFace: does not exist, nor do data/lfw and data/lfw/pairs.txt; check the "
                               "path; CASIA-WebFace, 494,414 photos"),
        ("lfw", "data/lfw: does not exist, nor does data/lfw/pairs.txt; check the path; LFW, 13,233 photos"),
        ("mhe-cifar100", "data/cifar-100: does not exist; say where it is: data.root=FOLDER, or data.download=true; C"),
    ],
)  # fmt: skip
def test_a_recipe_names_all_that_is_missing_at_once(recipe, message, sfplus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = sfplus("run", recipe)
    assert answer.code == 2 and message in answer.err
    assert not (tmp_path / "data").exists()
