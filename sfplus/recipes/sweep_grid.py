"""The configurations of a recipe that a sweep compares, from `key=a,b,c` and `name:settings`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfplus.errors import UsageError
from sfplus.recipes.load import Recipe

SEEDED = ("train", "finetune", "classify")  # stages that draw random numbers for a result
VARIANT = "variant"


@dataclass(frozen=True)
class Configuration:
    """One of the configurations that are compared.

    Attributes:
        choices: what it chose on each axis, by the axis' name, in words.
        overrides: `key=value`, later ones win: settings of all, then the variant's, then those of the keys.
    """

    choices: Mapping[str, str]
    overrides: tuple[str, ...]


def configurations(settings: Sequence[str], variants: Sequence[str], size: Sequence[str] = ()) -> list[Configuration]:
    """Every combination of the values of all keys and of the named variants, which change fastest.

    Args:
        settings: `key=a,b,c`; several keys that take the same value are joined by `+`. A comma within brackets or
            quotes parts nothing, and a key of one value is a setting of all configurations.
        variants: `name:key=value key=value`, or `name:` for the recipe as it is.
        size: `key=value` of all of them, before the others.

    Raises:
        UsageError: one of them is malformed, or two are alike.
    """
    axes: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    fixed = [*size]
    names = [setting.partition("=")[0] for setting in settings]
    short = [name.rpartition(".")[2] for name in names]
    for name, word, setting in zip(names, short, settings, strict=True):
        values = _split(setting.partition("=")[2], ",")
        if not name or "=" not in setting or not all(values):
            raise UsageError("is not of the form key=a,b,c", where=setting, remedy="for example: train.head.m=1,2,3,4")
        shown = name if short.count(word) > 1 else word
        choices = {f"{shown}={value}": tuple(f"{key}={value}" for key in name.split("+")) for value in values}
        if len(choices) < len(values) or names.count(name) > 1:
            raise UsageError("the same key or value stands twice", where=setting, remedy="remove one")
        if len(choices) == 1:
            fixed += next(iter(choices.values()))
        else:
            axes.append((name, choices))
    if variants:
        axes.append((VARIANT, _variants(variants)))
    found = []
    for chosen in itertools.product(*(choices.items() for _, choices in axes)):
        labels = {name: label for (name, _), (label, _) in zip(axes, chosen, strict=True)}
        settings_of = [overrides for _, overrides in chosen]
        order = [*settings_of[-1:], *settings_of[:-1]] if variants else settings_of
        found.append(Configuration(labels, (*fixed, *itertools.chain.from_iterable(order))))
    return found


def seed_overrides(recipe: Recipe, index: int, stage: str = "") -> tuple[str, ...]:
    """The overrides of the seeds of run `index`: those of the recipe plus `index`.

    Args:
        recipe: as a configuration has it.
        index: 0 is the recipe's own seeds.
        stage: the only stage whose seed changes; empty: all that have one.

    Raises:
        UsageError: the recipe has no such stage, or it has no seed.
    """
    stages = ("generate",) if recipe.generate else SEEDED  # its judge stays the same
    seeds = {name: getattr(getattr(recipe, name), "seed", None) for name in stages}
    known = {name: seed for name, seed in seeds.items() if seed is not None}
    if stage and stage not in known:
        remedy = f"those of this recipe: {', '.join(known) or 'none'}"
        raise UsageError(f"no stage '{stage}' draws random numbers", where="--seed-of", remedy=remedy)
    return tuple(f"{name}.seed={seed + index}" for name, seed in known.items() if stage in ("", name))


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
    """The parts of a text; a separator within brackets or quotes parts nothing."""
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
