"""Which configurations a sweep compares."""

from pathlib import Path

import pytest

from sfplus.errors import UsageError
from sfplus.recipes.load import load_recipe
from sfplus.recipes.sweep_grid import configurations, seed_overrides


@pytest.mark.parametrize(
    ("settings", "variants", "expected"),
    [
        ([], [], {"": ()}),
        (["a.b=1"], [], {"": ("a.b=1",)}),
        (["a.b=1,2"], [], {"b=1": ("a.b=1",), "b=2": ("a.b=2",)}),
        (["a=x, y"], [], {"a=x": ("a=x",), "a=y": ("a=y",)}),
        (["a.b=1,2", "c.b=3,4"], [], {
            "a.b=1, c.b=3": ("a.b=1", "c.b=3"), "a.b=1, c.b=4": ("a.b=1", "c.b=4"),
            "a.b=2, c.b=3": ("a.b=2", "c.b=3"), "a.b=2, c.b=4": ("a.b=2", "c.b=4"),
        }),
        (["t.h.m+f.h.m=1,2"], [], {"m=1": ("t.h.m=1", "f.h.m=1"), "m=2": ("t.h.m=2", "f.h.m=2")}),
        (["f.e={mode: paper, power: 0},{mode: batch}"], [], {
            "e={mode: paper, power: 0}": ("f.e={mode: paper, power: 0}",), "e={mode: batch}": ("f.e={mode: batch}",),
        }),
        (["s=[1, 2],[]", "t='a,b'"], [], {"s=[1, 2]": ("t='a,b'", "s=[1, 2]"), "s=[]": ("t='a,b'", "s=[]")}),
        ([], ["c:", "e: a.e={x: 1, y: 2}  b=3"], {"c": (), "e": ("a.e={x: 1, y: 2}", "b=3")}),
        (["p=0,1", "q=5"], ["c:", "e:r=7 p=9"], {
            "p=0, c": ("q=5", "p=0"), "p=0, e": ("q=5", "r=7", "p=9", "p=0"),
            "p=1, c": ("q=5", "p=1"), "p=1, e": ("q=5", "r=7", "p=9", "p=1"),
        }),
    ],
)  # fmt: skip
def test_every_combination(settings: list[str], variants: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    found = configurations(settings, variants)
    assert {", ".join(one.choices.values()): one.overrides for one in found} == expected


@pytest.mark.parametrize(
    ("settings", "variants", "says"),
    [
        (["a"], [], "a: is not of the form key=a,b,c"),
        (["a="], [], "is not of the form key=a,b,c"),
        (["a=1,,2"], [], "is not of the form key=a,b,c"),
        (["=1"], [], "is not of the form key=a,b,c"),
        (["a=1,1"], [], "the same key or value is given twice"),
        (["a=1,2", "a=3"], [], "the same key or value is given twice"),
        ([], ["a"], "a: is not of the form name:key=value key=value"),
        ([], [":a=1"], "is not of the form name:key=value"),
        ([], ["a:b"], "is not of the form name:key=value"),
        ([], ["a:b=1", "a:b=2"], "two variants have this name"),
    ],
)
def test_misuse(settings: list[str], variants: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        configurations(settings, variants)


def test_seeds_count_up_from_the_recipe(tiny: Path) -> None:
    recipe = load_recipe(tiny, ["train.seed=4"])
    assert seed_overrides(recipe, 2) == ("train.seed=6", "finetune.seed=2")
    assert seed_overrides(recipe, 2, "finetune") == ("finetune.seed=2",)
    with pytest.raises(UsageError, match="no stage 'fly' draws random numbers; those of this recipe: train, finetune"):
        seed_overrides(recipe, 0, "fly")
