"""The grid of configurations that a sweep compares, from `key=a,b,c` and `name:settings`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfplus.errors import UsageError
from sfplus.recipes.recipe import Recipe

VARIANT = "variant"


@dataclass(frozen=True)
class Configuration:
    """One configuration of a sweep.

    Attributes:
        choices: The label of its value on each axis, by the name of the axis.
        overrides: `key=value`; later ones win: settings of all configurations, then those of the variant, then those of
            the keys.
    """

    choices: Mapping[str, str]
    overrides: tuple[str, ...]


def configurations(settings: Sequence[str], variants: Sequence[str], size: Sequence[str] = ()) -> list[Configuration]:
    """Return every combination of the values of all keys and of the named variants, which change fastest.

    Args:
        settings: `key=a,b,c`; keys that take the same value are joined by `+`. A comma within brackets or quotes does
            not separate values. A key with one value is a setting of all configurations.
        variants: `name:key=value key=value`, or `name:` for the recipe without changes.
        size: `key=value` for all configurations, before the other settings.

    Raises:
        UsageError: If one of them is malformed, or two are the same.
    """
    axes: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    fixed = [*size]
    names = [setting.partition("=")[0] for setting in settings]
    last_parts = [name.rpartition(".")[2] for name in names]
    for name, last_part, setting in zip(names, last_parts, settings, strict=True):
        values = _split(setting.partition("=")[2], ",")
        if not name or "=" not in setting or not all(values):
            raise UsageError("is not of the form key=a,b,c", where=setting, remedy="for example: train.head.m=1,2,3,4")
        label = name if last_parts.count(last_part) > 1 else last_part
        choices = {f"{label}={value}": tuple(f"{key}={value}" for key in name.split("+")) for value in values}
        if len(choices) < len(values) or names.count(name) > 1:
            raise UsageError("the same key or value is given twice", where=setting, remedy="remove one")
        if len(choices) == 1:
            fixed += next(iter(choices.values()))
        else:
            axes.append((name, choices))
    if variants:
        axes.append((VARIANT, _variants(variants)))
    grid = []
    for chosen in itertools.product(*(choices.items() for _, choices in axes)):
        labels = {name: label for (name, _), (label, _) in zip(axes, chosen, strict=True)}
        settings_of = [overrides for _, overrides in chosen]
        order = [*settings_of[-1:], *settings_of[:-1]] if variants else settings_of
        grid.append(Configuration(labels, (*fixed, *itertools.chain.from_iterable(order))))
    return grid


def seed_overrides(recipe: Recipe, index: int, stage: str = "") -> tuple[str, ...]:
    """Return the overrides for the seeds of run `index`: the seeds of the recipe plus `index`.

    Args:
        recipe: The recipe with the settings of a configuration.
        index: The number of the run; 0 for the seeds of the recipe.
        stage: The only stage whose seed changes; empty for all stages that train.

    Raises:
        UsageError: If the recipe has no such stage, or the stage has no seed.
    """
    keys = [(name, key) for name, key in recipe.stage_keys() if key.stage.trains]
    if any(key.for_images for _, key in keys):
        keys = keys[-1:]  # the classifier that scores a generator stays the same
    seeds = {name: getattr(key, "seed") for name, key in keys}  # noqa: B009 (every kind of training has a seed)
    if stage and stage not in seeds:
        remedy = f"those of this recipe: {', '.join(seeds) or 'none'}"
        raise UsageError(f"no stage '{stage}' draws random numbers", where="--seed-of", remedy=remedy)
    return tuple(f"{name}.seed={seed + index}" for name, seed in seeds.items() if stage in ("", name))


def _variants(variants: Sequence[str]) -> dict[str, tuple[str, ...]]:
    choices: dict[str, tuple[str, ...]] = {}
    for variant in variants:
        name, colon, settings = variant.partition(":")
        overrides = tuple(part for part in _split(settings, " ") if part)
        if not colon or not name.strip() or not all("=" in override for override in overrides):
            remedy = 'for example: --variant control:"finetune.energy.weight=0"'
            raise UsageError("is not of the form name:key=value key=value", where=variant, remedy=remedy)
        if name.strip() in choices:
            raise UsageError("two variants have this name", where=name, remedy="choose another one")
        choices[name.strip()] = overrides
    return choices


def _split(text: str, separator: str) -> list[str]:
    """Split a text at a separator, except within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = quote.replace(character, "")
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{") - (character in "]}")
        if character == separator and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
