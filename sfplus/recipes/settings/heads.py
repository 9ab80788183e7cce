"""The settings of the classifiers, read from the classes in `sfplus/hypersphere/heads` without importing torch.

Each head is described once, by its class: the name, the signature with types and defaults, the bounds in `limits`, and
the descriptions under Args of the docstring. This module parses the source and builds the pydantic models from it.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from sfplus.errors import suggest
from sfplus.recipes.settings.engine import StrictSettings
from sfplus.recipes.settings.own_code import OwnHeadSettings, names_own_code

DEFAULT_HEAD = "asoftmax"
_BOUNDS = {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}
_SIZES = {"self", "features", "classes"}  # arguments of a head that depend on the data, not on the recipe


def _read_classes() -> dict[str, ast.ClassDef]:
    """Parse the modules of `hypersphere.heads` and return their classes by name."""
    folder = Path(__file__).parents[2] / "hypersphere" / "heads"
    modules = [ast.parse(file.read_text("utf-8")) for file in folder.glob("*.py")]
    return {node.name: node for module in modules for node in module.body if isinstance(node, ast.ClassDef)}


def _literal(node: ast.ClassDef, attribute: str) -> Any:
    """Return a class attribute that is assigned a literal; None if the class does not assign it."""
    for line in node.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == attribute:
            return ast.literal_eval(line.value)
    return None


def _descriptions(node: ast.ClassDef) -> dict[str, str]:
    """Return the text of each argument under Args of a Google-style docstring."""
    section = (ast.get_docstring(node) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    texts = {name: " ".join(text.split()).removesuffix(".") for name, text in entries}
    return {name: text[0].lower() + text[1:] for name, text in texts.items()}


def _limits(node: ast.ClassDef) -> dict[str, dict[str, Any]]:
    """Return the bounds of each option by pydantic's names, from limits such as "m >= 0, alpha > 0, alpha < 1"."""
    bounds: dict[str, dict[str, Any]] = {}
    for option, comparison, limit in re.findall(r"(\w+) ([<>]=?) ([\d.]+)", _literal(node, "limits") or ""):
        bounds.setdefault(option, {})[_BOUNDS[comparison]] = ast.literal_eval(limit)
    return bounds


def _arguments(init: ast.FunctionDef | None) -> dict[str, tuple[ast.expr | None, ast.expr | None]]:
    """Return annotation and default of each option in a signature."""
    if init is None:
        return {}
    defaults = [None] * (len(init.args.args) - len(init.args.defaults)) + init.args.defaults + init.args.kw_defaults
    pairs = zip(init.args.args + init.args.kwonlyargs, defaults, strict=True)
    return {argument.arg: (argument.annotation, default) for argument, default in pairs if argument.arg not in _SIZES}


def _options(node: ast.ClassDef, base: ast.FunctionDef | None) -> dict[str, Any]:
    """Return the fields of a class's options, without those of `base`: annotation, default, bounds, description."""
    limits, descriptions, fields = _limits(node), _descriptions(node), {}
    for option, (annotation, default) in _arguments(_signature(node)).items():
        if option in _arguments(base):
            continue
        if annotation is None or default is None or option not in descriptions:
            raise TypeError(f"{node.name}.{option} needs an annotation, a default and an entry under Args")
        field = Field(default=ast.literal_eval(default), description=descriptions[option], **limits.get(option, {}))
        fields[option] = (ast.unparse(annotation), field)
    return fields


def _signature(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((line for line in node.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"), None)


def _inherits(init: ast.FunctionDef | None, base: ast.FunctionDef | None) -> bool:
    """Return True for a class without signature, with `**options`, or that repeats all options of its base."""
    if init is None or init.args.kwarg:
        return True
    arguments, options = (
        {(name, *map(ast.dump, filter(None, option))) for name, option in _arguments(signature).items()}
        for signature in (init, base)
    )
    return options <= arguments


def _create_settings(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> type[StrictSettings]:
    """Build the settings of a head; if it inherits the options of its base, they come first and are described there."""
    base, inherited = StrictSettings, None
    parent = next((classes[name] for name in map(ast.unparse, node.bases) if name in classes), None)
    if parent is not None and _inherits(_signature(node), _signature(parent)):
        base, inherited = _create_settings(parent, classes), _signature(parent)
    fields = _options(node, inherited)
    if name := _literal(node, "name"):
        default = name if name == DEFAULT_HEAD else ...
        summary = (ast.get_docstring(node) or "").partition("\n")[0].removesuffix(".")
        fields = {"name": (Literal[name], Field(default=default, description=f"the classifier: {summary}")), **fields}
    title = f"{node.name}Settings"
    return create_model(title, __base__=base, __module__=__name__, __doc__=f"The settings of `{node.name}`.", **fields)


def _read_settings() -> dict[str, type[StrictSettings]]:
    """Return the settings of all classes that have a name for recipes, sorted by that name."""
    classes = _read_classes()
    named = {name: node for node in classes.values() if (name := _literal(node, "name"))}
    return {name: _create_settings(named[name], classes) for name in sorted(named)}


HEAD_SETTINGS = _read_settings()
"""The settings of each classifier of `hypersphere.HEADS`, by its name."""

if TYPE_CHECKING:

    class _KnownHeadSettings(StrictSettings):
        name: str

    HeadSettings = _KnownHeadSettings | OwnHeadSettings

else:
    HeadSettings = functools.reduce(operator.or_, [*HEAD_SETTINGS.values(), OwnHeadSettings])


def head_settings(value: Any) -> type[StrictSettings]:
    """Return the settings class of a head from its keys; without a name it is A-Softmax, of an import path an own one.

    Raises:
        ValueError: If the value is not a mapping, or no head has its name.
    """
    if not isinstance(value, Mapping):
        raise ValueError("a classifier is given by keys, such as {name: asoftmax, m: 4}")
    name = str(value.get("name", DEFAULT_HEAD))
    if names_own_code(value, "name"):
        return OwnHeadSettings
    if name not in HEAD_SETTINGS:
        remedy = suggest(name, HEAD_SETTINGS) or f"use one of {', '.join(HEAD_SETTINGS)}, or package.module:Class"
        raise ValueError(f"no classifier is called '{name}'; {remedy}")
    return HEAD_SETTINGS[name]


def validate_head(value: Any) -> Any:
    """Validate the keys of a head as the settings of its name; settings pass unchanged.

    Raises:
        ValueError: As `head_settings`, or if a key or value is wrong.
    """
    return value if isinstance(value, StrictSettings) else head_settings(value).model_validate(value)
