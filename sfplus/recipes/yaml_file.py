"""YAML as recipes use it: names with texts, numbers and lists, within limits, because recipes come from anywhere."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from sfplus.errors import RecipeError, cut, explain_damage, first_line
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit

_TAG = "tag:yaml.org,2002:"
_SCALARS = tuple(_TAG + kind for kind in ("null", "bool", "int", "float", "str", "merge"))
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_MAX_NUMBER = 40  # characters
_MAX_INTEGER = 2**63 - 1
_MAX_DEPTH = 20

Fail = Callable[..., RecipeError]


class _Loader(yaml.SafeLoader):
    """Reads a date as text, since no setting is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML has it)
        start: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}timestamp", f"{_TAG}value")]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_text(path: Path) -> str:
    """Read the text of a recipe.

    Raises:
        RecipeError: If it cannot be read, is too large or is not UTF-8.
    """
    try:
        check_limit("recipe_bytes", file_size(path), path, error=RecipeError)
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise RecipeError("cannot be read: it is not UTF-8", where=path, remedy="save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=path, remedy="check the file") from error


def parse_yaml(text: str, where: str, *, has_lines: bool = True) -> tuple[Any, yaml.Node | None]:
    """Parse YAML.

    Args:
        text: The YAML.
        where: The file or the override, for messages.
        has_lines: Whether messages name the line after a colon.

    Returns:
        The value, and the tree with the lines of its parts; None and None for an empty text.

    Raises:
        RecipeError: If it is not YAML, has a key twice, holds something else than texts, finite numbers, lists and
            mappings, is nested deeply, or is too large, where an alias counts as all that it repeats.
    """

    def fail(reason: str, mark: Any, remedy: str = "correct this line") -> RecipeError:
        return RecipeError(reason, where=f"{where}:{mark.line + 1}" if has_lines and mark else where, remedy=remedy)

    with explain_damage(where, remedy="check the file", error=RecipeError):
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            raise fail(f"is not YAML: {cut(error.problem or 'unknown', 200)}", error.problem_mark) from error
        except yaml.YAMLError as error:
            raise RecipeError(f"is not YAML: {first_line(error)}", where=where, remedy="check the file") from error
        except RecursionError:
            raise RecipeError("is nested too deeply", where=where, remedy="check the file") from None
    if node is None:
        return None, None
    size, _ = _measure(node, fail, {})
    check_limit("recipe_values", size, where, error=RecipeError)
    with explain_damage(where, remedy="check the file", error=RecipeError):
        return loader.construct_document(node), node


def _measure(node: yaml.Node, fail: Fail, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Check a node and all that it holds, and return their number and depth, each alias as what it repeats.

    Args:
        node: The node.
        fail: Makes the exception from a reason and the mark of its line.
        sizes: The results by the identity of the node; None while a node is being measured.
    """
    if id(node) in sizes:
        if (measured := sizes[id(node)]) is None:
            raise fail("contains itself", node.start_mark, "remove the anchor")
        return measured
    sizes[id(node)] = None
    size, depth = 1, 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, fail)
        size += len(node.value) // 64
    elif node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
        raise fail(f"is not YAML of a recipe: unknown tag {cut(node.tag, 80)}", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, fail)
    for child in _children(node):
        child_size, child_depth = _measure(child, fail, sizes)
        size, depth = size + child_size, max(depth, 1 + child_depth)
    if depth > _MAX_DEPTH:
        raise fail("is nested too deeply", node.start_mark)
    sizes[id(node)] = size, depth
    return size, depth


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_scalar(node: yaml.ScalarNode, fail: Fail) -> None:
    text = node.value
    if node.tag not in _SCALARS:
        raise fail(f"is not YAML of a recipe: unknown tag {cut(node.tag, 80)}", node.start_mark)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise fail("holds a character that is not allowed in text", node.start_mark)
    if node.tag in _NUMBERS:
        if len(text) > _MAX_NUMBER:
            raise fail(f"holds a number of more than {_MAX_NUMBER} characters", node.start_mark)
        with contextlib.suppress(ValueError):
            if node.tag == _NUMBERS[0] and abs(int(text.replace("_", ""), 0)) > _MAX_INTEGER:
                raise fail(f"'{text}' is larger than any setting", node.start_mark)
        with contextlib.suppress(ValueError):
            if not math.isfinite(float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))):
                raise fail(f"'{text}' is not a finite number", node.start_mark)


def _check_keys(node: yaml.MappingNode, fail: Fail) -> None:
    """Refuse keys that are not names, or are given twice: YAML would keep the last one, which is never intended."""
    names: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            quoted = f" '{cut(key.value, 80)}'" if isinstance(key, yaml.ScalarNode) else ""
            raise fail(f"the key{quoted} is not a name", key.start_mark, "use a name, or put it in quotes")
        if key.value in names:
            raise fail(f"the key '{cut(key.value, 80)}' is given twice", key.start_mark, "remove one")
        names.add(key.value)
