"""The settings of heads, which are read from the source of their classes."""

from __future__ import annotations

import ast
import math
from typing import Any

import pytest
from pydantic import ValidationError

from sfplus.hypersphere import HEADS
from sfplus.recipes.settings import heads
from sfplus.recipes.settings.heads import HEAD_SETTINGS, head_settings, validate_head

# Fingerprints depend on these texts, so the keys, their order and their values must not change.
DEFAULTS = {
    "softmax": '{"name":"softmax"}',
    "normface": '{"name":"normface","scale":30.0,"learnable":false}',
    "asoftmax": '{"m":4,"base":1000.0,"gamma":0.12,"power":1.0,"lambda_min":5.0,"iteration":0,"name":"asoftmax",'
    '"gradient":"exact"}',
    "lsoftmax": '{"m":4,"base":1000.0,"gamma":0.12,"power":1.0,"lambda_min":5.0,"iteration":0,"name":"lsoftmax"}',
    "sphereface-r": '{"name":"sphereface-r","version":"v0","m":1.5,"normalisation":"hard","scale":30.0,'
    '"loss_weight":null,"t":0.01,"steps":[],"gradient":"detached"}',
    "sphereface2": '{"name":"sphereface2","margin":"C","m":null,"alpha":0.7,"scale":40.0,"t":3.0,"loss_weight":10.0,'
    '"gradient":"detached"}',
    "cosface": '{"name":"cosface","scale":64.0,"m":0.35}',
    "arcface": '{"name":"arcface","scale":64.0,"m":0.5}',
    "adaface": '{"name":"adaface","scale":64.0,"m":0.4,"h":0.333,"t_alpha":0.01}',
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_dump_of_default_settings_does_not_change(name: str) -> None:
    settings = validate_head({"name": name})
    assert settings.model_dump_json() == DEFAULTS[name]
    assert validate_head(settings) is settings


def test_heads_and_settings_have_the_same_names() -> None:
    assert list(HEAD_SETTINGS) == list(HEADS) == sorted(DEFAULTS)


def test_a_head_without_a_name_is_an_a_softmax() -> None:
    assert validate_head({}).model_dump_json() == DEFAULTS["asoftmax"]
    assert validate_head({"m": 2}).model_dump() == validate_head({"name": "asoftmax", "m": 2}).model_dump()


GREATER = ["greater than 0", "greater than or equal to 0", "greater than or equal to 1"]


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        *[(name, "m", 0, GREATER[2]) for name in ("asoftmax", "lsoftmax")],
        ("asoftmax", "m", 1.5, "valid integer"),
        ("asoftmax", "iteration", 0.5, "valid integer"),
        *[("asoftmax", key, -0.1, GREATER[1]) for key in ("base", "gamma", "power", "lambda_min")],
        ("asoftmax", "iteration", -1, GREATER[1]),
        ("asoftmax", "gradient", "detached", "'exact' or 'caffe'"),
        ("asoftmax", "base", math.inf, "finite"),
        ("asoftmax", "base", math.nan, "finite"),
        *[(name, "scale", 0, GREATER[0]) for name in ("normface", "cosface", "arcface", "adaface")],
        *[(name, "scale", 0, GREATER[0]) for name in ("sphereface-r", "sphereface2")],
        ("normface", "learnable", 7, "valid boolean"),
        *[(name, "m", -0.1, GREATER[1]) for name in ("cosface", "arcface", "adaface", "sphereface2")],
        ("adaface", "h", 0, GREATER[0]),
        ("adaface", "t_alpha", 0, GREATER[0]),
        ("adaface", "t_alpha", 1.1, "less than or equal to 1"),
        ("sphereface-r", "version", "v3", "'v0', 'v1' or 'v2'"),
        ("sphereface-r", "m", 0.9, GREATER[2]),
        ("sphereface-r", "normalisation", "firm", "'hard', 'soft' or 'none'"),
        ("sphereface-r", "loss_weight", 0, GREATER[0]),
        ("sphereface-r", "t", -0.1, GREATER[1]),
        ("sphereface-r", "steps", [0.5], "valid integer"),
        ("sphereface-r", "gradient", "caffe", "'detached' or 'exact'"),
        ("sphereface2", "margin", "B", "'C', 'A' or 'M'"),
        ("sphereface2", "alpha", 0, GREATER[0]),
        ("sphereface2", "alpha", 1, "less than 1"),
        ("sphereface2", "t", 0.5, GREATER[2]),
        ("sphereface2", "loss_weight", 0, GREATER[0]),
        ("sphereface2", "gradient", "caffe", "'detached' or 'exact'"),
        *[(name, "margin_of_another_head", 1, "Extra inputs are not permitted") for name in DEFAULTS],
    ],
)  # fmt: skip
def test_invalid_values_are_refused_by_key(name: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        validate_head({"name": name, option: value})
    (fault,) = error.value.errors()
    assert fault["loc"][:1] == (option,) and message in fault["msg"]


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("asoftmax", "m", 1), ("asoftmax", "lambda_min", 0), ("cosface", "m", 0), ("adaface", "t_alpha", 1),
        ("sphereface-r", "m", 1), ("sphereface-r", "loss_weight", None), ("sphereface2", "t", 1),
        ("sphereface2", "m", None),
    ],
)  # fmt: skip
def test_values_on_an_inclusive_bound_are_accepted(name: str, option: str, value: Any) -> None:
    assert getattr(validate_head({"name": name, option: value}), option) == value
    HEADS[name](4, 3, **{option: value})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "arcfase"}, "no classifier is called 'arcfase'; did you mean 'arcface'"),
        ({"name": ["arcface"]}, "no classifier is called"),
        (4, "given by keys"),
    ],
)
def test_an_unknown_head_is_refused_with_a_remedy(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_settings(value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        validate_head({}).m = 2


def test_steps_become_a_tuple() -> None:
    assert validate_head({"name": "sphereface-r", "steps": [2, 3]}).steps == (2, 3)


def test_every_key_is_described_by_the_docstring_of_its_class() -> None:
    described = {f"{name}.{key}": field.description for name, settings in HEAD_SETTINGS.items()
                 for key, field in settings.model_fields.items()}  # fmt: skip
    assert all(described.values()) and not any("\n" in str(text) for text in described.values())
    assert described["asoftmax.base"] == described["lsoftmax.base"] == "lambda before its decay (prototxt)"
    assert described["softmax.name"] == "the classifier: Plain softmax on x . w"


def test_bounds_and_signature_are_read_from_source_alone() -> None:
    source = '''
class Base(Head):
    """A base.

    Args:
        features: Size d.
        classes: Number C.
        power: An exponent
            of two lines.
    """

    limits = "power > 0.5"

    def __init__(self, features: int, classes: int, power: float = 2.0) -> None:
        pass


class Derived(Base):
    """A head.

    Args:
        kind: A choice.
    """

    name = "derived"

    def __init__(self, features: int, classes: int, power: float = 2.0, kind: Literal["a", "b"] = "b") -> None:
        pass


class Other(Base):
    """Another default of the base's option is an option of its own.

    Args:
        power: Another exponent.
    """

    name = "other"

    def __init__(self, features: int, classes: int, power: float = 3.0) -> None:
        pass
'''
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    model = heads._create_settings(classes["Derived"], classes)
    assert model(name="derived").model_dump() == {"power": 2.0, "name": "derived", "kind": "b"}
    assert model.model_fields["power"].description == "an exponent of two lines"
    other = heads._create_settings(classes["Other"], classes)
    assert other(name="other").model_dump() == {"name": "other", "power": 3.0}
    assert other.model_fields["power"].description == "another exponent"
    for options in ({"power": 0.5}, {"kind": "c"}, {"name": "another"}):
        with pytest.raises(ValidationError):
            model.model_validate({"name": "derived"} | options)
    undocumented = ast.parse(source.replace("kind: A choice.", "choice: A choice.")).body[1]
    assert isinstance(undocumented, ast.ClassDef)
    with pytest.raises(TypeError, match="an entry under Args"):
        heads._create_settings(undocumented, classes)


@pytest.mark.parametrize("name", HEADS)
def test_heads_check_the_bounds_that_settings_have(name: str) -> None:
    for rule in filter(None, HEADS[name].limits.split(", ")):
        option, comparison, limit = rule.split()
        value = int(limit) + {">=": -1, ">": 0, "<=": 1, "<": 0}[comparison]
        with pytest.raises(ValueError, match=rf"{option}\b.* must be"):
            HEADS[name](4, 3, **{option: value})
        with pytest.raises(ValidationError):
            validate_head({"name": name, option: value})
