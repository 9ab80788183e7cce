"""The functions that create the module of a Caffe layer, by its type, and the reading of its parameters.

Sizes are checked before modules are created, so that a hostile file costs neither time nor memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from sfplus.io.limits import limit

Shape = tuple[int, ...]
Layer = tuple[nn.Module, list[Shape]]
"""A module and the shapes of its outputs."""


class LayerError(ValueError):
    """A layer cannot be created; the reader of the network adds the layer and the file."""


LAYERS: dict[str, Callable[[Any, list[Shape]], Layer]] = {}
"""Functions by type, as in the file: LayerParameter and the shapes of its inputs -> module and shapes."""


def register(*types: str, inputs: int | None = 1) -> Callable[[Callable[..., Layer]], Callable[..., Layer]]:
    """Register a function for some types, and check the number of inputs before it is called."""

    def decorate(create: Callable[..., Layer]) -> Callable[..., Layer]:
        def checked(layer: Any, shapes: list[Shape]) -> Layer:
            if inputs is not None and len(shapes) != inputs:
                raise LayerError(f"has {len(shapes)} inputs, needs {inputs}")
            if not shapes:
                raise LayerError("has no input")
            return create(layer, shapes)

        LAYERS.update(dict.fromkeys(types, checked))
        return create

    return decorate


def resolve_axis(axis: int, shape: Shape, *, end: bool = False) -> int:
    """Return a dimension that counts from the end if it is negative, as one that counts from the start."""
    dimensions = len(shape) + end
    if not -dimensions <= axis < dimensions:
        raise LayerError(f"has axis {axis}, its input has {len(shape)} dimensions")
    return axis % dimensions


def get_option(options: Any, name: str, default: Any) -> Any:
    """Return a parameter, or Caffe's default if the file does not state it."""
    return getattr(options, name) if options.HasField(name) else default


def check_size(*shape: int) -> None:
    """Raise an error if a weight of this shape would be empty or too large."""
    if min(shape, default=1) < 1 or math.prod(shape) > (most := limit("caffe_numbers")):
        raise LayerError(f"needs {' x '.join(map(str, shape))} numbers, the limit is 1 to {most:,}")


def get_pair(options: Any, name: str, default: int | None, suffix: str = "") -> tuple[int, int]:
    """Return a number for height and width, which is repeated, single, or of each direction as `name_h`, `name_w`."""
    stem = name.removesuffix("_size")
    sizes = getattr(options, name)
    values = list(sizes) if not isinstance(sizes, int) else [sizes] if options.HasField(name) else []
    directions = [f"{stem}_{direction}" for direction in "hw"]
    if any(key in options.DESCRIPTOR.fields_by_name and options.HasField(key) for key in directions):
        values = [get_option(options, key, default or 0) for key in directions]
    if not values and default is None:
        raise LayerError(f"does not state its {name}")
    if len(values) > 2:
        raise LayerError(f"has {len(values)} numbers for {name}; only images of two dimensions are supported")
    height, width = (values * 2)[:2] if values else [default or 0] * 2
    least = 0 if stem == "pad" else 1
    if min(height, width) < least or max(height, width) > 1 << 15:
        raise LayerError(f"has a {name} of {height} x {width}")
    return height, width


def image_size(shape: Shape) -> tuple[int, int, int]:
    """Return channels, height and width of an input (N, C, H, W)."""
    if len(shape) != 4:
        raise LayerError(f"needs an input (N, C, H, W), not {shape}")
    return shape[1], shape[2], shape[3]


def channel_count(shape: Shape) -> int:
    """Return the channels of an input (N, C, ...)."""
    if len(shape) < 2:
        raise LayerError(f"needs an input with channels, not {shape}")
    return shape[1]
