"""`sfplus recipes`: list, show, check and copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.recipes.load import find_recipe, recipe_names


def test_recipes_are_listed_in_two_groups_and_copied(tmp_path: Path, sfplus: Callable) -> None:
    faces, images = sfplus("recipes", "list").out.split("Images:\n")
    assert faces.startswith("Faces:\n  demo ") and "sphereface" not in images
    assert sorted(line.split()[0] for line in (faces + images).splitlines()[1:]) == recipe_names()
    assert sfplus("recipes", "copy", "demo", tmp_path / "mine.yaml").code == 0
    assert (tmp_path / "mine.yaml").read_bytes() == find_recipe("demo").read_bytes()
    answer = sfplus("recipes", "copy", "demo", tmp_path / "mine.yaml")
    assert answer.code == 2 and "already exists" in answer.err


def test_recipes_are_listed_shown_and_checked(sfplus: Callable) -> None:
    assert "demo " in sfplus("recipes", "list").out and "sphereface-plus-m4" in sfplus("recipes", "list").out
    assert sfplus("recipes", "show", "demo").out == Path("pipelines/demo.yaml").read_text()
    answer = sfplus("recipes", "check", "demo")
    assert answer.code == 0 and "sample -> detect/train" in answer.out


def test_what_is_not_fetched_yet_is_listed(sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path))
    answer = sfplus("recipes", "check", "demo", "detect.detector=yunet")
    assert answer.code == 0 and "to run it: get it first: sfplus models fetch yunet\n" in answer.out, answer.err
    (tmp_path / "yunet").mkdir()
    (tmp_path / "yunet" / "model.onnx").write_bytes(b"a graph")
    answer = sfplus("recipes", "check", "demo", "detect.detector=yunet")
    assert answer.code != 0 and "its SHA-256 differs; get it again: sfplus models fetch yunet" in answer.err


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nodir/m.yaml", "nodir: there is no such folder; create it first"),
        ("mine", "mine: is not the name of a recipe; end it in .yaml"),
    ],
)
def test_recipes_are_copied_to_yaml_files_in_existing_folders(
    file: str, message: str, sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = sfplus("recipes", "copy", "demo", file)
    assert answer.code == 2 and message in answer.err and not list(tmp_path.iterdir())
    answer = sfplus("recipes", "copy", "demo", "my own.yaml")
    assert answer.code == 0 and answer.out == "change it, then: sfplus run 'my own.yaml'\n"


def test_a_recipe_that_is_not_text_is_refused(sfplus: Callable, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    answer = sfplus("recipes", "show", tmp_path / "bad.yaml")
    assert answer.code == 2 and "bad.yaml: cannot be read: it is not UTF-8" in answer.err
