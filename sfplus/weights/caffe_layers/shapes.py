"""Caffe layers that move numbers without computing: joining, cutting, reshaping and reordering."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.weights.caffe_layers.registry import (
    Layer,
    LayerError,
    Shape,
    get_option,
    image_size,
    register,
    resolve_axis,
)


class Concat(nn.Module):
    """The inputs one after the other along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *inputs: Tensor) -> Tensor:
        """Join the inputs."""
        return torch.cat(inputs, self.axis)


@register("Concat", inputs=None)
def _concat(layer: Any, shapes: list[Shape]) -> Layer:
    options, first = layer.concat_param, shapes[0]
    axis = resolve_axis(options.concat_dim if options.HasField("concat_dim") else get_option(options, "axis", 1), first)
    if any(len(shape) != len(first) for shape in shapes) or len({s[:axis] + s[axis + 1 :] for s in shapes}) > 1:
        raise LayerError(f"joins inputs that do not fit: {', '.join(map(str, dict.fromkeys(shapes)))}")
    return Concat(axis), [(*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])]


class Slice(nn.Module):
    """Parts of the input along an axis, of the given sizes."""

    def __init__(self, sizes: Sequence[int], axis: int) -> None:
        super().__init__()
        self.sizes, self.axis = list(sizes), axis

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the parts."""
        return tuple(torch.split(x, self.sizes, self.axis))


@register("Slice")
def _slice(layer: Any, shapes: list[Shape]) -> Layer:
    options, shape, count = layer.slice_param, shapes[0], len(layer.top)
    axis = resolve_axis(options.slice_dim if options.HasField("slice_dim") else get_option(options, "axis", 1), shape)
    points = [0, *options.slice_point, shape[axis]]
    if not options.slice_point and count and shape[axis] % count == 0:
        points = list(range(0, shape[axis] + 1, shape[axis] // count))
    sizes = [after - before for before, after in itertools.pairwise(points)]
    if len(sizes) != count or min(sizes) < 1:
        raise LayerError(f"cuts {shape[axis]} at {points[1:-1]}, which does not give its {count} outputs")
    return Slice(sizes, axis), [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


class Split(nn.Module):
    """The input, several times."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the input `count` times."""
        return (x,) * self.count


@register("Split")
def _split(layer: Any, shapes: list[Shape]) -> Layer:
    return Split(len(layer.top)), shapes * len(layer.top)


@register("Flatten")
def _flatten(layer: Any, shapes: list[Shape]) -> Layer:
    shape, options = shapes[0], layer.flatten_param
    start, end = (
        resolve_axis(get_option(options, "axis", 1), shape),
        resolve_axis(get_option(options, "end_axis", -1), shape),
    )
    if start > end:
        raise LayerError(f"flattens from dimension {start} to {end}")
    return nn.Flatten(start, end), [(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])]


class Reshape(nn.Module):
    """Another shape for the same numbers.

    Args:
        start: number of dimensions before those that change.
        sizes: the sizes that replace the dimensions from `start` to `end`: 0 keeps that of the input, -1 follows from
            the others.
        end: number of dimensions of the input up to which they are replaced.
    """

    def __init__(self, start: int, sizes: Sequence[int], end: int) -> None:
        super().__init__()
        self.start, self.sizes, self.end = start, tuple(sizes), end

    def forward(self, x: Tensor) -> Tensor:
        """Return the reshaped input."""
        sizes = [size if size else x.shape[self.start + i] for i, size in enumerate(self.sizes)]
        return x.reshape(*x.shape[: self.start], *sizes, *x.shape[self.end :])


@register("Reshape")
def _reshape(layer: Any, shapes: list[Shape]) -> Layer:
    shape, options = shapes[0], layer.reshape_param
    start, count = resolve_axis(options.axis, shape, end=True), get_option(options, "num_axes", -1)
    end = len(shape) if count == -1 else start + count
    sizes = list(options.shape.dim)
    if not start <= end <= len(shape) or min(sizes, default=0) < -1 or sizes.count(-1) > 1:
        raise LayerError(f"reshapes {shape} to {sizes}, which is not possible")
    if any(not size and start + i >= len(shape) for i, size in enumerate(sizes)):
        raise LayerError(f"keeps more dimensions than {shape} has")
    after = [size or shape[start + i] for i, size in enumerate(sizes)]
    kept_numbers = math.prod(shape[:start]) * math.prod(size for size in after if size > 0) * math.prod(shape[end:])
    if -1 in after and kept_numbers:
        after[after.index(-1)] = math.prod(shape) // kept_numbers
    result = (*shape[:start], *after, *shape[end:])
    if math.prod(result) != math.prod(shape) or not result:
        raise LayerError(f"reshapes {shape} to {sizes}, which is not possible")
    if start == 0 and sizes and sizes[0] > 0:  # photos are counted when the network runs
        if result[0] != 1:
            raise LayerError(f"reshapes {shape} to {sizes}, which mixes photos")
        sizes = [0, *sizes[1:]] if shape[0] == 1 else [-1, *after[1:]]
    return Reshape(start, sizes, end), [result]


class Permute(nn.Module):
    """The input with its dimensions in another order (SSD)."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)

    def forward(self, x: Tensor) -> Tensor:
        """Return the permuted input."""
        return x.permute(self.order)


@register("Permute")
def _permute(layer: Any, shapes: list[Shape]) -> Layer:
    shape, order = shapes[0], list(layer.permute_param.order)
    order += [axis for axis in range(len(shape)) if axis not in order]
    if sorted(order) != list(range(len(shape))):
        raise LayerError(f"has the order {order[:8]} for {len(shape)} dimensions")
    return Permute(order), [tuple(shape[axis] for axis in order)]


class ShuffleChannel(nn.Module):
    """The channels of all groups in turn: the first of each group, then the second of each (ShuffleNet)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the input with its channels in another order."""
        return torch.unflatten(x, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


@register("ShuffleChannel")
def _shuffle_channel(layer: Any, shapes: list[Shape]) -> Layer:
    channels, groups = image_size(shapes[0])[0], get_option(layer.shuffle_channel_param, "group", 1)
    if groups < 1 or channels % groups:
        raise LayerError(f"shuffles {channels} channels in {groups} groups, which do not divide")
    return ShuffleChannel(groups), shapes


class Crop(nn.Module):
    """The part of an input that has the size of a second one from dimension `axis` on."""

    def __init__(self, axis: int, offsets: Sequence[int]) -> None:
        super().__init__()
        self.axis, self.offsets = axis, tuple(offsets)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Return the part."""
        for axis, offset in enumerate(self.offsets, start=self.axis):
            x = x.narrow(axis, offset, reference.shape[axis])
        return x


@register("Crop", inputs=2)
def _crop(layer: Any, shapes: list[Shape]) -> Layer:
    (shape, reference), options = shapes, layer.crop_param
    axis = resolve_axis(get_option(options, "axis", 2), shape)
    count, offsets = len(shape) - axis, list(options.offset) or [0]
    offsets = offsets * count if len(offsets) == 1 else offsets
    ends = [offset + size for offset, size in zip(offsets, reference[axis:], strict=False)]
    if len(reference) != len(shape) or len(offsets) != count or any(map(int.__gt__, ends, shape[axis:])):
        raise LayerError(f"cuts {reference} at {offsets[:8]} out of {shape}, which does not fit")
    return Crop(axis, offsets), [(*shape[:axis], *reference[axis:])]
