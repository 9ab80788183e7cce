"""Networks by name, without importing torch.

Each network is defined in one module of this package, and adding one changes nothing else. The module contains

- `NETWORKS`, a literal tuple or dictionary of names; `timm:`, with its colon, registers all networks of that library;
- `build(name, *, feature_size, crop_size, ...)`, a function that returns the network and whose further keyword
  arguments, with their defaults, are the network's options.

Networks that are not from a library must keep all their tensors in `state_dict()`: weights are loaded into them without
initialising them first.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfplus.errors import UsageError, suggest
from sfplus.io.import_path import is_import_path
from sfplus.io.resources import HUB

if TYPE_CHECKING:
    from torch import nn

DEFAULT_INPUT = "112x96"

NEUTRAL_OPTIONS = {"width": 1.0, "block": "original", "batch_norm": False}
"""Options that recipes and config.json always contain: networks that do not have them accept these values."""


def create(name: str, *, feature_size: int = 512, input: str = DEFAULT_INPUT, **options: Any) -> nn.Module:
    """Create a network with fresh weights, drawn from torch's default generator: (N, 3, H, W) -> (N, feature_size).

    `sfplus.weights.loading.create_network` creates one with weights from a file.

    Args:
        name: one of `network_names()`, or `timm:NAME` or `torchvision:NAME` for a network of these libraries.
        feature_size: length of a feature.
        input: size of the crops, height x width, such as `112x96` or `112x112`.
        options: further options of the network; for those of the SphereFace networks see `sphereface.build`.

    Returns:
        The network, in training mode. Its attribute `options` contains `input` and the further options where they
        differ from their defaults, without `width`, which `config.json` always contains.

    Raises:
        UsageError: If no network has this name, or an option is unknown or out of range.
        DependencyError: If timm is needed and not installed.
    """
    build = _builder(name)
    if feature_size < 1:
        raise UsageError(f"feature_size must be at least 1, not {feature_size}", where="network")
    crop_size = parse_size(input)
    defaults = _defaults(build)
    unsupported = [key for key, value in options.items() if key not in defaults and value != NEUTRAL_OPTIONS.get(key)]
    if unsupported:
        remedy = f"its options are {', '.join(defaults)}" if defaults else "it has no options"
        raise UsageError(f"does not support {', '.join(unsupported)}", where=name, remedy=remedy)
    options = {key: value for key, value in options.items() if key in defaults}
    network: Any = build(name, feature_size=feature_size, crop_size=crop_size, **options)
    network.options = {"input": input} if input != DEFAULT_INPUT else {}
    network.options |= {key: value for key, value in options.items() if key != "width" and value != defaults[key]}
    return network  # type: ignore[no-any-return]


def network_names() -> tuple[str, ...]:
    """Return the names of all networks that are not from a library."""
    return tuple(name for name in _modules() if not name.endswith(":"))


def is_library_network(name: str) -> bool:
    """Return whether a name is that of a library's network, such as `timm:resnet18`, which may not exist there."""
    library, colon, model = name.partition(":")
    return bool(model) and library + colon in _modules()


def is_network(name: str) -> bool:
    """Return whether `create` knows a name; which networks a library has is not checked."""
    return name in network_names() or is_library_network(name)


def network_options(name: str) -> frozenset[str]:
    """Return the keyword arguments that `create` accepts for a network.

    Raises:
        UsageError: If no network has this name.
    """
    return frozenset({"feature_size", "input", *NEUTRAL_OPTIONS, *_defaults(_builder(name))})


def parse_size(size: str) -> tuple[int, int]:
    """Return the height and width of crops, in pixels, from text such as `112x96`.

    Raises:
        UsageError: If it is not a size that networks accept: face networks halve a crop four times.
    """
    match = re.fullmatch(r"(\d{2,3})x(\d{2,3})", size)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not match or height % 16 or width % 16 or not 16 <= width <= height:
        remedy = "use HEIGHTxWIDTH, both multiples of 16 and the height not below the width, such as 112x96"
        raise UsageError(f"'{size}' is not a size of crops", where="input", remedy=remedy)
    return height, width


@functools.cache
def _modules() -> Mapping[str, str]:
    """Return the module of each name, read from the source because importing these modules imports torch."""
    modules: dict[str, str] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NETWORKS":
                modules |= dict.fromkeys(ast.literal_eval(node.value), path.stem)
    return modules


def _builder(name: str) -> Callable[..., nn.Module]:
    key = name if name in _modules() else f"{name.partition(':')[0]}:"
    if key not in _modules():
        remedy = suggest(name, network_names()) or f"use one of {', '.join(network_names())}"
        raise UsageError(f"no network is called '{name}'", where="network", remedy=remedy)
    build: Callable[..., nn.Module] = importlib.import_module(f"sfplus.networks.{_modules()[key]}").build
    return build


def _defaults(build: Callable[..., nn.Module]) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def is_function(name: str) -> bool:
    """Return whether a name has the form `package.module:function`, and is neither a file nor a library's network."""
    reserved = name.startswith(HUB) or is_library_network(name)
    return is_import_path(name) and not reserved and not Path(name).exists()
