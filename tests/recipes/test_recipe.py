"""The keys of a recipe, and which of them can be combined."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.errors import RecipeError
from sfplus.recipes.load import load_recipe
from sfplus.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("train: {}\n", 1, "train.photos is missing"),
        ("verify: {photos: a}\nembed: {model: m}\n", 1, "verify.pairs is missing"),
        ("verify: {photos: a, pairs: b}\n", 1, "embed.model is missing"),
        ("finetune: {photos: a}\n", 1, "finetune.model is missing"),
        ("sample: {people: 9, verify_people: 8}\n", 1, "fewer than two people to train on"),
        ("train: {photos: p, evaluate_every: 100}\n", 1, "evaluate_every needs held-out pairs"),
        ("detect: {choose: all}\nembed: {model: m}\nverify: {photos: p, pairs: q}\n", 1, "verify needs one face"),
        ("align: {template: arcface-56x56}\ntrain: {photos: p}\n", 1, "or arcface-112x112 crops"),
    ],
)  # fmt: skip
def test_missing_and_conflicting_keys_are_refused_with_their_line(
    check_refused: Callable[[str, int, str], None], text: str, line: int, message: str
) -> None:
    check_refused(text, line, message)


def test_all_settings_are_described() -> None:
    def check(model: type) -> None:
        for name, field in model.model_fields.items():
            inner = [
                t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(t, "model_fields")
            ]
            for kind in inner:
                check(kind)
            assert inner or field.description, f"{model.__name__}.{name}"

    check(Recipe)


@pytest.mark.parametrize("text", ["", "# nothing\n", "report: {title: x}\n", "detect: {min_face: 30}\n"])
def test_a_recipe_without_stages_is_refused(text: str, write_recipe: Callable[[str], Path]) -> None:
    with pytest.raises(RecipeError, match="has no stage to run; see: sfplus recipes show demo"):
        load_recipe(write_recipe(text))
