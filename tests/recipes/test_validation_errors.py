"""Messages about invalid recipes: where the mistake is, the reason and the remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.errors import RecipeError
from sfplus.recipes.load import load_recipe


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("train:\n  photos: p\n  netwrk: x\n", 3, "unknown key 'train.netwrk'; did you mean 'network'?"),
        ("trian: {}\n", 1, "unknown key 'trian'; did you mean 'train'?"),
        ("train:\n  photos: p\n  head:\n    m: 2\n    gama: 1\n", 5, "did you mean 'gamma'?"),
        ("train:\n  photos: p\n  zzzzz: 1\n", 3, "valid keys:"),
        ("train:\n  photos: p\n  max_iter: many\n", 3, "valid integer"),
        ("train:\n  photos: p\n\n\n  head: {m: 0}\n", 5, "greater than or equal to 1, not 0"),
        ("detect: {thresholds: [0.6, 0.7]}\n", 1, "thresholds"),
        ("detect: {choose: nearest}\n", 1, "'centre'"),
        ("train:\n  photos: p\n  momentum: .nan\n", 3, "finite"),
        ("align: {jpeg_quality: 98}\n", 1, "less than or equal to 95"),
    ],
)  # fmt: skip
def test_invalid_keys_and_values_are_reported_with_line_and_remedy(
    check_refused: Callable[[str, int, str], None], text: str, line: int, message: str
) -> None:
    check_refused(text, line, message)


def test_keys_of_the_previous_head_are_reported_with_the_keys_of_the_new_one(
    write_recipe: Callable[[str], Path],
) -> None:
    path = write_recipe("train: {photos: p, head: {m: 2, gamma: 1}}\n")
    with pytest.raises(RecipeError, match=r"different keys: train.head=\{name: \.\.\., scale, m\}"):
        load_recipe(path, ["train.head.name=arcface"])
