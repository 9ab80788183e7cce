"""The keys of a recipe with type, default and description, as the settings declare them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sfplus.errors import RecipeError, suggest
from sfplus.recipes.recipe import Recipe, key_classes
from sfplus.recipes.settings.own_code import OwnSettings

_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path", dict: "keys and values"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >="}


@dataclass(frozen=True)
class RecipeKey:
    """A key of a recipe.

    Attributes:
        name: Its dotted name, such as `train.base_lr`.
        head: The head that has this option; empty if it is not an option of a head.
        type: Its type and bounds in words.
        default: Its default as YAML; "required" if there is none.
        description: What it does, with its source.
    """

    name: str
    head: str
    type: str
    default: str
    description: str


def stage_descriptions() -> dict[str, str]:
    """Return the keys that are stages, each with one line about it."""
    return {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in key_classes().items()}


def list_keys(name: str = "") -> list[RecipeKey]:
    """Return the keys of a recipe, in the order in which the stages run.

    Args:
        name: A stage or a dotted key, whose keys are returned only; empty for all.

    Raises:
        RecipeError: If there is no such key.
    """
    keys = list(_fields(Recipe, "", ""))
    chosen = [key for key in keys if not name or f"{key.name}.".startswith(f"{name}.")]
    if not chosen:
        names = list(dict.fromkeys([*key_classes(), *(key.name for key in keys)]))
        raise RecipeError("there is no such key", where=name, remedy=suggest(name, names) or "see: sfplus recipes keys")
    return chosen


def _fields(kind: type[BaseModel], prefix: str, head: str) -> Iterator[RecipeKey]:
    for name, field in kind.model_fields.items():
        inner = _models(field.annotation)
        if field.description:
            default = "required" if field.is_required() else _yaml(field.get_default(call_default_factory=True))
            text = _description(field.annotation, field)
            yield RecipeKey(f"{prefix}{name}", head, text, default, field.description)
        for model in inner:  # several: the heads, each with its name
            inner_head = get_args(model.model_fields["name"].annotation)[0] if len(inner) > 1 else head
            yield from _fields(model, f"{prefix}{name}.", inner_head)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the classes in an annotation that are models, without those of the user's own code."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if issubclass(annotation, OwnSettings) else [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _description(annotation: Any, field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in _BOUNDS.items()
        if isinstance(getattr(item, name, None), int | float) and abs(getattr(item, name)) < 1e15
    ]
    return ", ".join([_type(annotation), *bounds])


def _type(annotation: Any) -> str:
    """Return a type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if _models(annotation) and origin is not list:
        return "keys" + (" or null" if NoneType in parts else "")
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " | ".join(_yaml(part) for part in parts)
    if origin is UnionType or origin is Union:
        return " or ".join("null" if part is NoneType else _type(part) for part in parts)
    if origin is tuple:
        return f"list of {_plural(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} {_plural(parts[0])}"
    if origin is list:
        return "list"
    return _TYPES[origin or annotation]


def _plural(kind: type) -> str:
    return "texts" if kind is str else f"{_TYPES[kind]}s"


def _yaml(value: Any) -> str:
    """Return a default as it would be written in YAML."""
    if isinstance(value, BaseModel):
        return f"{{name: {name}, ...}}" if (name := getattr(value, "name", "")) else "{...}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"
