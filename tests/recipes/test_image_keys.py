"""Recipes for images: keys without their stage, invalid combinations, the plan."""

from collections.abc import Callable
from pathlib import Path

import pytest
from image_recipe_texts import CLASSIFY, GENERATE

from sfplus.errors import RecipeError
from sfplus.pipeline.plan import plan
from sfplus.recipes.load import load_recipe
from sfplus.recipes.steps import StepOutput


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        (["max_iter=7"], "generate.max_iter", 7),
        (["max_iter=7"], "classify.max_iter", 3),
        (["classify.max_iter=7"], "classify.max_iter", 7),
        (["data.root=elsewhere"], "generate.data.root", Path("elsewhere")),
        (["data.root=elsewhere"], "classify.data.root", Path("elsewhere")),
        (["energy.weight=0.5"], "generate.energy.weight", 0.5),
    ],
)
def test_keys_without_a_stage_apply_to_the_last_stage_and_data_to_all(
    overrides: list[str], key: str, expected: object, write_recipe: Callable[[str], Path]
) -> None:
    value: object = load_recipe(write_recipe(CLASSIFY + GENERATE), overrides)
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (CLASSIFY, ["enrgy.power=0"], "enrgy.power=0: unknown key 'classify.enrgy'; did you mean 'energy'?"),
        (
            CLASSIFY + "verify: {photos: a, pairs: b}\n",
            [],
            "verify is for recipes of faces, classify for recipes of images",
        ),
        (CLASSIFY, ["rescale=true"], "rescale is for convolutions on angles: set operator"),
        (CLASSIFY, ["train.max_iter=1"], "train is for recipes of faces"),
        (CLASSIFY + "report: {published: [{name: a, source: b}]}\n", [], "is an accuracy or an inception_score"),
        ("verify: {photos: a, pairs: b}\n", ["energy.power=0"], "unknown key 'energy'"),
    ],
)
def test_invalid_recipes_for_images_are_refused(
    text: str, overrides: list[str], message: str, write_recipe: Callable[[str], Path]
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write_recipe(text), overrides)
    assert message in str(error.value)


def test_a_generator_takes_the_classifier_that_scores_it(write_recipe: Callable[[str], Path]) -> None:
    steps = plan(load_recipe(write_recipe(CLASSIFY + GENERATE)))
    assert [step.name for step in steps] == ["classify", "generate"]
    assert steps[1].inputs["classifier"] == StepOutput("classify")
    assert [step.name for step in plan(load_recipe(write_recipe(GENERATE)))] == ["generate"]
