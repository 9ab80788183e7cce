"""The declarations of stages agree with the recipe, the modules of the stages and the Makefile."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sfplus.artifacts.stage import Deferred
from sfplus.recipes.recipe import Recipe, image_keys, key_classes


def test_each_key_is_the_stage_of_its_name_and_small_is_the_only_other_field() -> None:
    assert {name: kind.stage.name for name, kind in key_classes().items()} == {name: name for name in key_classes()}
    assert set(Recipe.model_fields) - set(key_classes()) == {"small"}


@pytest.mark.parametrize("name", key_classes())
def test_the_module_of_a_stage_has_the_declared_functions(name: str) -> None:
    stage = key_classes()[name].stage
    functions = [function for function in (stage.build, stage.share) if function is not None]
    assert functions and all(isinstance(function, Deferred) for function in functions)
    for function in functions:
        assert isinstance(function, Deferred) and callable(function.resolve())


def test_stages_can_be_pickled() -> None:
    for kind in key_classes().values():
        assert pickle.loads(pickle.dumps(kind.stage)) == kind.stage


def test_the_makefile_has_a_target_for_each_stage_of_faces() -> None:
    makefile = Path("Makefile").read_text("utf-8")
    for name in key_classes():
        if name not in (*image_keys(), "sample"):  # drawn faces are for the demo only
            assert f"\n{name}:  ##" in makefile, name
