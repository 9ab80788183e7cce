"""The reference of recipe keys: every key of the settings is there, with type, default and description."""

import pytest
import yaml
from pydantic import BaseModel

from sfplus.errors import RecipeError
from sfplus.hypersphere.heads import HEADS
from sfplus.recipes.key_reference import list_keys, stage_descriptions
from sfplus.recipes.recipe import key_classes


def _keys(name):
    return {(key.name, key.head): key for key in list_keys(name)}


def test_every_setting_is_explained():
    for stage, kind in key_classes().items():
        names = {key.name for key in list_keys(stage)}
        assert {f"{stage}.{name}" for name in kind.model_fields} <= names
    assert set(stage_descriptions()) == set(key_classes())
    assert all(key.description and key.type and key.default for key in list_keys())


def test_types_bounds_and_defaults_are_in_words():
    keys = _keys("train") | _keys("detect") | _keys("classify") | _keys("report")
    expected = {
        ("train.base_lr", ""): ("number, > 0", "0.1"),
        ("train.steps", ""): ("list of integers", "[16000, 24000, 28000]"),
        ("train.photos", ""): ("path or null", "null"),
        ("train.seed", ""): ("integer, >= 0", "0"),
        ("train.energy", ""): ("keys or null", "null"),
        ("train.head", ""): ("keys", "{name: asoftmax, ...}"),
        ("train.head.m", "arcface"): ("number, >= 0", "0.5"),
        ("train.teacher.model", ""): ("text, length >= 1", "required"),
        ("train.classes", ""): ("replicated | sharded", "replicated"),
        ("detect.thresholds", ""): ("3 numbers", "[0.6, 0.7, 0.9]"),
        ("detect.mirror_landmarks", ""): ("true or false", "true"),
        ("classify.energy.power", ""): ("0 | 1 | 2 | a0 | a1 | a2", "2"),
        ("report.title", ""): ("text", "''"),
    }
    assert {name: (keys[name].type, keys[name].default) for name in expected} == expected


def test_defaults_are_yaml_that_gives_the_value_of_the_settings():
    for stage, kind in key_classes().items():
        for name, field in kind.model_fields.items():
            value = field.get_default(call_default_factory=True)
            if not field.is_required() and not isinstance(value, BaseModel):
                text = _keys(stage)[f"{stage}.{name}", ""].default
                assert yaml.safe_load(text) == (list(value) if isinstance(value, tuple) else value), name


def test_options_of_heads_name_their_head():
    assert {key.head for key in list_keys("train.head.name")} == set(HEADS)
    assert {key.name for key in list_keys("train.head.m")} == {"train.head.m"}


@pytest.mark.parametrize(
    ("name", "similar"), [("trian", "train"), ("train.base_lrr", "train.base_lr"), ("x", "see: sfplus recipes keys")]
)
def test_an_unknown_key_is_one_line(name, similar):
    with pytest.raises(RecipeError, match=rf"^{name}: there is no such key; .*{similar}"):
        list_keys(name)


def test_the_command_lists_stages_and_keys(sfplus):
    answer = sfplus("recipes", "keys")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()[:-1]] == list(key_classes())
    answer = sfplus("recipes", "keys", "finetune.energy.weight")
    assert answer.out.startswith("finetune.energy.weight  number, >= 0, default 1\n    lambda_M, the factor")
    assert sfplus("recipes", "keys", "trian").code == 2
