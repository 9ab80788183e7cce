"""Validation errors of recipes, each explained in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sfplus.errors import RecipeError, short_repr, suggest
from sfplus.recipes.settings.heads import head_settings


def explain(
    error: ValidationError,
    recipe: type[BaseModel],
    node: yaml.Node | None,
    data: Mapping[str, Any],
    path: Path,
    overrides: Mapping[str, str],
    causes: Sequence[str],
) -> RecipeError:
    """Explain the first error that pydantic reports: file and line or override, reason and remedy.

    Args:
        error: The error of pydantic.
        recipe: The model of a recipe.
        node: The YAML with its line numbers.
        data: The data that was validated.
        path: The file.
        overrides: The overrides that were applied, each as its user wrote it.
        causes: Those of them without which this error would not be.
    """
    first = error.errors()[0]
    location = [part for part in first["loc"] if not isinstance(part, int)]
    key = ".".join(map(str, location))
    exact = [override for override in overrides if key and f"{key}.".startswith(f"{override.partition('=')[0]}.")]
    blamed = dict.fromkeys(overrides[override] for override in exact or causes)
    where = " ".join(blamed) or f"{path}:{_line(node, location)}"
    if first["type"] == "extra_forbidden":
        valid = _fields(recipe, location[:-1], data)
        remedy = suggest(str(location[-1]), valid) or f"valid keys: {', '.join(valid)}"
        return RecipeError(f"unknown key '{key}'", where=where, remedy=remedy)
    is_list = first["type"] == "tuple_type"  # YAML has no tuples
    reason = "Input should be a list in brackets" if is_list else re.sub(r"^Value error, ", "", first["msg"])
    got = "" if first["type"] in ("missing", "value_error") else f", not {short_repr(first['input'])}"
    return RecipeError(
        f"{key}: {reason}{got}" if key else reason,
        where=where,
        remedy="see: sfplus recipes show demo" if not key else "",
    )


def _line(node: yaml.Node | None, location: Sequence[Any]) -> int:
    line = 1
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == str(part):
                line, node = key.start_mark.line + 1, value
                break
        else:
            break
    return line


def _fields(recipe: type[BaseModel], location: Sequence[Any], data: Any) -> list[str]:
    """Return the valid keys at a location in the recipe; those of a head depend on its name in the data."""
    model: Any = recipe
    for part in location:
        annotation, data = model.model_fields[part].annotation, data.get(part)
        candidates = [
            t
            for t in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        if not candidates:
            return []
        model = candidates[0] if len(candidates) == 1 else head_settings(data)
    return list(model.model_fields)
