"""Caffe layers that compute a function of each number, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.weights.caffe_layers.registry import (
    Layer,
    LayerError,
    Shape,
    channel_count,
    get_option,
    register,
    resolve_axis,
)


@register("PReLU")
def _prelu(layer: Any, shapes: list[Shape]) -> Layer:
    return nn.PReLU(1 if layer.prelu_param.channel_shared else channel_count(shapes[0])), shapes


@register("Softmax")
def _softmax(layer: Any, shapes: list[Shape]) -> Layer:
    return nn.Softmax(resolve_axis(get_option(layer.softmax_param, "axis", 1), shapes[0])), shapes


class Power(nn.Module):
    """(shift + scale * x) ** power."""

    def __init__(self, power: float, scale: float, shift: float) -> None:
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """Return the power of each number."""
        x = self.shift + self.scale * x
        return x if self.power == 1 else x**self.power


class Exp(nn.Module):
    """base ** (shift + scale * x); a base of -1 is e."""

    def __init__(self, base: float, scale: float, shift: float) -> None:
        super().__init__()
        factor = 1 if base == -1 else math.log(base)
        self.scale, self.shift = factor * scale, factor * shift

    def forward(self, x: Tensor) -> Tensor:
        """Return the exponential of each number."""
        return (self.shift + self.scale * x).exp()


class Log(nn.Module):
    """Logarithm to a base of shift + scale * x; a base of -1 is e."""

    def __init__(self, base: float, scale: float, shift: float) -> None:
        super().__init__()
        self.factor = 1 if base == -1 else 1 / math.log(base)
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of each number."""
        return (self.shift + self.scale * x).log() * self.factor


class AbsVal(nn.Module):
    """Absolute value."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the absolute value of each number."""
        return x.abs()


class Swish(nn.Module):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the product for each number."""
        return x * torch.sigmoid(self.beta * x)


@register("ReLU", "ReLU6", "Sigmoid", "TanH", "ELU", "Clip", "Swish", "AbsVal", "BNLL", "Dropout")
@register("Power", "Exp", "Log")
def _of_each_number(layer: Any, shapes: list[Shape]) -> Layer:
    return _ELEMENTWISE[layer.type](layer), shapes


def _linear_options(options: Any, name: str, default: float) -> Sequence[float]:
    first = get_option(options, name, default)
    if name == "base" and first != -1 and (first <= 0 or first == 1):
        raise LayerError(f"has the base {first}")
    return first, get_option(options, "scale", 1.0), get_option(options, "shift", 0.0)


_ELEMENTWISE: dict[str, Callable[[Any], nn.Module]] = {
    "ReLU": lambda layer: nn.LeakyReLU(slope) if (slope := layer.relu_param.negative_slope) else nn.ReLU(),
    "ReLU6": lambda layer: nn.ReLU6(),
    "Sigmoid": lambda layer: nn.Sigmoid(),
    "TanH": lambda layer: nn.Tanh(),
    "ELU": lambda layer: nn.ELU(get_option(layer.elu_param, "alpha", 1.0)),
    "Clip": lambda layer: nn.Hardtanh(layer.clip_param.min, layer.clip_param.max),
    "Swish": lambda layer: Swish(get_option(layer.swish_param, "beta", 1.0)),
    "AbsVal": lambda layer: AbsVal(),
    "BNLL": lambda layer: nn.Softplus(),
    "Dropout": lambda layer: nn.Identity(),
    "Power": lambda layer: Power(*_linear_options(layer.power_param, "power", 1.0)),
    "Exp": lambda layer: Exp(*_linear_options(layer.exp_param, "base", -1.0)),
    "Log": lambda layer: Log(*_linear_options(layer.log_param, "base", -1.0)),
}
