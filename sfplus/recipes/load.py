"""Recipe files: find, read and validate them; a wrong key is an error with its line and the nearest valid key."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfplus.detection.registry import MTCNN
from sfplus.errors import RecipeError, UsageError, suggest, warn_user
from sfplus.io.import_path import is_import_path
from sfplus.io.resources import shipped_folder
from sfplus.recipes.recipe import Recipe, image_keys
from sfplus.recipes.settings.detect import settings_of_others
from sfplus.recipes.settings.heads import DEFAULT_HEAD
from sfplus.recipes.validation_errors import explain
from sfplus.recipes.yaml_file import parse_yaml, read_text


def recipe_names() -> list[str]:
    """Return the names of the recipes that sfplus ships."""
    return sorted(path.stem for path in shipped_folder("pipelines").glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Find the file of a recipe by its shipped name or by its path.

    Raises:
        RecipeError: If there is no such recipe.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise RecipeError("there is no such recipe file", where=name, remedy="see: sfplus recipes list")
    path = shipped_folder("pipelines") / f"{name}.yaml"
    if not path.is_file():
        suggestion = suggest(name, recipe_names())
        raise RecipeError(f"no recipe is called '{name}'", remedy=suggestion or "see: sfplus recipes list")
    return path


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: The YAML file.
        overrides: `key.key=value` with the value in YAML, applied before validation. In a recipe for images, a key that
            is not a stage is taken as a key of the last stage, and `data` as a key of all stages.

    Raises:
        RecipeError: If something is wrong; names `file:line` of the first mistake, or the override.
    """
    data, node = parse_yaml(read_text(path), str(path))
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise RecipeError(
            "is not a recipe: it must hold stages as keys", where=f"{path}:1", remedy="see: sfplus recipes show demo"
        )
    written = {full: override for override in overrides for full in _with_stage(data, override)}
    overrides = [full for override in overrides for full in _with_stage(data, override)]
    changed = _apply(data, overrides, say=True)
    try:
        recipe = Recipe.model_validate(changed)
    except ValidationError as error:
        causes = [override for override in overrides if _causes(override, overrides, data, error)]
        raise explain(error, Recipe, node, changed, path, written, causes) from None
    if not recipe.has_stages:
        raise RecipeError("has no stage to run", where=path, remedy="see: sfplus recipes show demo")
    return recipe


def about_faces(path: Path) -> bool:
    """Return whether a recipe is about faces, without validating it."""
    return not set(image_keys()) & set(parse_yaml(read_text(path), str(path))[0])


def small_settings(path: Path) -> list[str]:
    """Return the overrides that make a recipe small.

    Raises:
        UsageError: If the recipe has no small size.
    """
    small = load_recipe(path).small
    if small is None:
        raise UsageError("this recipe has no small size", where=path, remedy="leave --small out")
    return [f"{key}={json.dumps(value)}" for key, value in small.items()]


def header(path: Path) -> str:
    """Return the first sentence of the comment at the top of a recipe."""
    lines = [line.removeprefix("#").strip() for line in read_text(path).splitlines() if line.startswith("#")]
    return lines[0] if lines else ""


def _with_stage(data: dict[str, Any], override: str) -> list[str]:
    """Add the stages to an override that names none, in a recipe for images."""
    key = override.partition("=")[0].split(".")[0]
    stages = [stage for stage in image_keys() if stage in data]
    if key in Recipe.model_fields or not stages:
        return [override]
    return [f"{stage}.{override}" for stage in (stages if key == "data" else stages[-1:])]


def _apply(data: Mapping[str, Any], overrides: Sequence[str], *, say: bool = False) -> dict[str, Any]:
    """Return a copy of the data with overrides.

    An override that exchanges a head leaves out the options that the recipe gives for its own one, since they mean
    other things, or nothing, to the new head; those of other overrides stay. The same holds for a regulariser of the
    user's own, and for the settings that only the detector of the recipe has.

    Args:
        data: The data of the recipe.
        overrides: `key=value`.
        say: Whether a warning names what is left out.
    """
    changed = copy.deepcopy(dict(data))  # with YAML aliases several keys share one mapping
    for override in overrides:
        key, chosen = _parse_override(override)
        slot, _, name = key.rpartition(".")
        settings = _get(changed, slot.split("."))
        if isinstance(settings, dict) and (old := _exchanged(slot, name, settings, chosen)):
            is_detector = name == "detector"
            options = settings_of_others(chosen, settings) if is_detector else set(settings) - {name, "weight"}
            left_out = [option for option in settings if option in options]
            for option in left_out:
                del settings[option]
            if left_out and say:
                warn_user(f"{slot}: the options of {old} in the recipe are left out: {', '.join(left_out)}")
    for override in overrides:
        _override(changed, override)
    return changed


def _exchanged(slot: str, name: str, settings: Mapping[str, Any], chosen: Any) -> str:
    """Return the head, regulariser or detector that an override exchanges, if keys beside it are its options, or ""."""
    if name == "name" and slot.rpartition(".")[2] == "head":
        old = str(settings.get(name, DEFAULT_HEAD))
        return old if chosen != old else ""
    if name == "mode" and slot.rpartition(".")[2] == "energy":
        old = str(settings.get(name, "the energy"))
        is_code = isinstance(chosen, str) and is_import_path(chosen)
        return old if chosen != old and (is_code or is_import_path(old)) else ""
    if (slot, name) == ("detect", "detector"):
        old = str(settings.get(name, MTCNN))
        return old if chosen != old else ""
    return ""


def _get(data: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return what is at nested keys; None if there is nothing."""
    value: Any = data
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _causes(override: str, overrides: Sequence[str], data: Mapping[str, Any], error: ValidationError) -> bool:
    """Return whether an error would not be without one override."""
    try:
        Recipe.model_validate(_apply(data, [kept for kept in overrides if kept != override]))
    except ValidationError as other_error:
        return _first(other_error) != _first(error)
    return True


def _first(error: ValidationError) -> tuple[Any, ...]:
    first = error.errors()[0]
    return first["type"], first["loc"], first["msg"]


def _parse_override(override: str) -> tuple[str, Any]:
    """Return the key and the value of `key.key=value`.

    Raises:
        RecipeError: If it has another form, or the value is no YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError("is not of the form key=value", where=override, remedy="for example: finetune.energy.power=0")
    try:
        return key, parse_yaml(text, override, has_lines=False)[0]
    except RecipeError as error:
        raise RecipeError(f"the value {error.reason}", where=override, remedy="put it in quotes") from error


def _override(data: dict[str, Any], override: str) -> None:
    key, value = _parse_override(override)
    *parents, last = key.split(".")
    for parent in parents:
        child = data.get(parent)
        if not isinstance(child, dict | None):
            raise RecipeError(f"'{parent}' holds a value, not keys", where=override, remedy="check the key")
        data[parent] = dict(child or {})  # a copy: with YAML aliases several keys share one mapping
        data = data[parent]
    data[last] = value
