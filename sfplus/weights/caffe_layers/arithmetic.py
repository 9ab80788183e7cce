"""Caffe layers that multiply, add or normalise: linear layers, batch normalisation, scales and sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.weights.caffe_layers.registry import (
    Layer,
    LayerError,
    Shape,
    channel_count,
    check_size,
    get_option,
    register,
    resolve_axis,
)


class InnerProduct(nn.Linear):
    """A linear layer on all dimensions from `axis` on: (N, C, H, W) -> (N, num_output).

    Attributes:
        transposed: whether the layer's blob is (inputs, outputs); the weight here is always (outputs, inputs).
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, axis: int, transposed: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.axis, self.transposed = axis, transposed

    def forward(self, x: Tensor) -> Tensor:
        """Return the products."""
        return super().forward(x.flatten(self.axis))


@register("InnerProduct")
def _inner_product(layer: Any, shapes: list[Shape]) -> Layer:
    options = layer.inner_product_param
    axis = resolve_axis(get_option(options, "axis", 1), shapes[0])
    inputs, outputs = math.prod(shapes[0][axis:]), options.num_output
    check_size(outputs, inputs)
    module = InnerProduct(inputs, outputs, get_option(options, "bias_term", True), axis, options.transpose)
    return module, [(*shapes[0][:axis], outputs)]


class BatchNorm(nn.Module):
    """Normalisation by stored statistics, without scale and bias, which are a Scale layer in Caffe."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / sqrt(variance + eps), by channel."""
        return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)


@register("BatchNorm")
def _batch_norm(layer: Any, shapes: list[Shape]) -> Layer:
    options = layer.batch_norm_param
    if not get_option(options, "use_global_stats", True):
        reason = "takes its statistics from the photos that it is given (use_global_stats: false)"
        raise LayerError(f"{reason}, so that a feature would depend on other photos")
    return BatchNorm(channel_count(shapes[0]), get_option(options, "eps", 1e-5)), shapes


class Scale(nn.Module):
    """Multiplication by a weight or by a second input, and addition of a bias, from dimension `axis` on.

    Args:
        weight: shape of the weight; None if the layer has none, which makes the second input the factor.
        bias: shape of the bias; None if the layer has none.
        axis: first dimension of the input that the weight and the bias extend over.
    """

    def __init__(self, weight: Sequence[int] | None, bias: Sequence[int] | None, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.weight = None if weight is None else nn.Parameter(torch.ones(tuple(weight)))
        self.bias = None if bias is None else nn.Parameter(torch.zeros(tuple(bias)))

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Return x * weight + bias."""
        factor = self.weight if factor is None else factor
        if factor is not None:
            x = x * _extend(factor, x, self.axis)
        return x if self.bias is None else x + _extend(self.bias, x, self.axis)


@register("Scale", inputs=None)
def _scale(layer: Any, shapes: list[Shape]) -> Layer:
    axis, shape = _parameter_shape(layer.scale_param, shapes)
    weight = shape if len(shapes) == 1 else None
    return Scale(weight, shape if layer.scale_param.bias_term else None, axis), shapes[:1]


class Bias(nn.Module):
    """Addition of a weight or of a second input from dimension `axis` on."""

    def __init__(self, shape: Sequence[int] | None, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.bias = None if shape is None else nn.Parameter(torch.zeros(tuple(shape)))

    def forward(self, x: Tensor, term: Tensor | None = None) -> Tensor:
        """Return x + bias."""
        term = self.bias if term is None else term
        assert term is not None
        return x + _extend(term, x, self.axis)


@register("Bias", inputs=None)
def _bias(layer: Any, shapes: list[Shape]) -> Layer:
    axis, shape = _parameter_shape(layer.bias_param, shapes)
    return Bias(shape if len(shapes) == 1 else None, axis), shapes[:1]


def _parameter_shape(options: Any, shapes: list[Shape]) -> tuple[int, Shape]:
    """Return the first dimension that a Scale or Bias layer extends over, and the shape of its parameter."""
    if len(shapes) not in (1, 2):
        raise LayerError(f"has {len(shapes)} inputs, needs 1 or 2")
    axis, count = resolve_axis(get_option(options, "axis", 1), shapes[0]), get_option(options, "num_axes", 1)
    rest = shapes[0][axis:]
    shape = shapes[1] if len(shapes) == 2 else rest if count == -1 else rest[: max(count, 0)]
    if shape != rest[: len(shape)] or (len(shapes) == 1 and not -1 <= count <= len(rest)):
        raise LayerError(f"extends over {shape or count} from dimension {axis} of {shapes[0]}, which does not fit")
    return axis, shape


def _extend(tensor: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a view with a dimension of 1 for each dimension of `x` after those that the tensor extends over."""
    return tensor.reshape(tensor.shape + (1,) * (x.dim() - axis - tensor.dim()))


class Axpy(nn.Module):
    """A factor for each channel times an input, plus another input (SENet)."""

    def forward(self, factor: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return factor * x + y: (N, C, 1, 1), (N, C, H, W), (N, C, H, W) -> (N, C, H, W)."""
        return factor.reshape(factor.shape[:2] + (1,) * (x.dim() - 2)) * x + y


@register("Axpy", inputs=3)
def _axpy(layer: Any, shapes: list[Shape]) -> Layer:
    factor, x, y = shapes
    if x != y or factor[:2] != x[:2] or math.prod(factor[2:]) != 1:
        raise LayerError(f"has inputs that do not fit: {', '.join(map(str, shapes))}")
    return Axpy(), [x]


class Eltwise(nn.Module):
    """The product, the weighted sum or the maximum of inputs of the same shape."""

    def __init__(self, operation: str, coefficients: Sequence[float]) -> None:
        super().__init__()
        self.operation, self.coefficients = operation, tuple(coefficients)

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """Combine the inputs."""
        result = first if self._coefficient(0) == 1 else first * self._coefficient(0)
        for index, x in enumerate(rest, start=1):
            if self.operation == "SUM":
                result = result + (x if self._coefficient(index) == 1 else x * self._coefficient(index))
            else:
                result = result * x if self.operation == "PROD" else torch.maximum(result, x)
        return result

    def _coefficient(self, index: int) -> float:
        return self.coefficients[index] if self.coefficients else 1


@register("Eltwise", inputs=None)
def _eltwise(layer: Any, shapes: list[Shape]) -> Layer:
    options = layer.eltwise_param
    operation = {0: "PROD", 1: "SUM", 2: "MAX"}[get_option(options, "operation", 1)]
    if len(set(shapes)) > 1:
        raise LayerError(f"has inputs of different shapes: {', '.join(map(str, dict.fromkeys(shapes)))}")
    if options.coeff and (operation != "SUM" or len(options.coeff) != len(shapes)):
        raise LayerError(f"has {len(options.coeff)} coefficients for the {operation} of {len(shapes)} inputs")
    return Eltwise(operation, options.coeff), shapes[:1]


class Normalize(nn.Module):
    """Division by the Euclidean norm, of all numbers of a photo or at each position (SSD, NormFace).

    Args:
        channels: length of the weight that the result is multiplied by; 0 for none.
        across_spatial: one norm for all numbers, not one for each position.
        eps: added to the sum of squares.
    """

    def __init__(self, channels: int, across_spatial: bool, eps: float) -> None:
        super().__init__()
        self.across_spatial, self.eps = across_spatial, eps
        self.weight = nn.Parameter(torch.ones(channels)) if channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input."""
        dims = tuple(range(1, x.dim())) if self.across_spatial else (1,)
        x = x / (x.square().sum(dims, keepdim=True) + self.eps).sqrt()
        return x if self.weight is None else x * _extend(self.weight, x, 1)


@register("Normalize")
def _normalize(layer: Any, shapes: list[Shape]) -> Layer:
    """SSD's has a weight; NormFace's has neither a weight nor `norm_param`, and works at each position."""
    if not layer.HasField("norm_param"):
        return Normalize(0, False, 1e-10), shapes
    options = layer.norm_param
    channels = 1 if get_option(options, "channel_shared", True) else channel_count(shapes[0])
    return Normalize(channels, get_option(options, "across_spatial", True), get_option(options, "eps", 1e-10)), shapes
