"""What is wrong with a recipe, in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sfplus.errors import RecipeError
from sfplus.recipes.settings.heads import head_settings


def explain(
    error: ValidationError,
    recipe: type[BaseModel],
    node: yaml.Node | None,
    data: Mapping[str, Any],
    path: Path,
    overrides: Sequence[str],
) -> RecipeError:
    """The first fault that pydantic found, as one line that names file and line or the override, and the remedy.

    Args:
        error: what pydantic says.
        recipe: the model of a recipe.
        node: the YAML with its lines.
        data: what was validated.
        path: the file.
        overrides: that were applied.
    """
    fault = error.errors()[0]
    location = [part for part in fault["loc"] if not isinstance(part, int)]
    key = ".".join(map(str, location))
    named = [override for override in overrides if key and _meet(override.partition("=")[0], key)]
    where = named[0] if named else f"{path}:{_line(node, location)}"
    if fault["type"] == "extra_forbidden":
        valid = _fields(recipe, location[:-1], data)
        remedy = nearest(str(location[-1]), valid) or f"valid keys: {', '.join(valid)}"
        head = key.rpartition(".")[0]
        if any(override.startswith(f"{head}.name=") for override in overrides):
            others = ", ".join(name for name in valid if name != "name")
            remedy = f"another classifier has other keys: {head}={{name: ..., {others}}}"
        return RecipeError(f"unknown key '{key}'", where=where, remedy=remedy)
    reason = re.sub(r"^Value error, ", "", fault["msg"])
    got = "" if fault["type"] in ("missing", "value_error") else f", not {fault['input']!r}"
    return RecipeError(
        f"{key}: {reason}{got}" if key else reason,
        where=where,
        remedy="see: sfplus recipes show demo" if not key else "",
    )


def _meet(one: str, other: str) -> bool:
    """Whether one dotted key is the other or lies within it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


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
    """The keys that are valid at a place of the recipe; those of a head depend on its name in the data."""
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


def nearest(word: str, words: Iterable[str]) -> str:
    """Which word may be meant, as a question; empty where none is near."""
    near = difflib.get_close_matches(word, list(words), 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else ""
