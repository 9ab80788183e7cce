"""The steps of `SphereConv2d` before and after its convolution, with few passes and few new tensors.

Each has a plain form, which torch.compile fuses and second derivatives use, and an autograd function for all other
cases: on large activations most of the time is spent on new tensors, and plain autograd allocates three times as many.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from sfplus.hypersphere.riesz_kernel import wide_dtype


def square_sum(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sum squares over the channels of each group: (..., C, H, W) -> x itself and (..., groups, H, W).

    The returned x must be the input of one convolution and of nothing else: its gradient is then that of this
    convolution alone, and backward adds to it in place. The sums are float32, or float64 for float64 inputs.
    """
    if torch.compiler.is_compiling():
        return x, _grouped(x, groups).to(wide_dtype(x)).square().sum(-3)
    return _SquareSum.apply(x, groups)  # type: ignore[no-any-return]


def respond(projection: Tensor, inverse: Tensor, rate: Tensor | None, amplitude: Tensor | None) -> Tensor:
    """Return amplitude (2 sigmoid(rate asin(c)) - 1) with c = projection * inverse, clamped inside (-1, 1).

    Without amplitude the result is rate asin(c), without rate it is c, not clamped.

    Args:
        projection: w.x / ||w||, (..., groups, filters, H, W).
        inverse: 1 / ||x||, (..., groups, 1, H, W), float32 or float64; the result has its dtype.
        rate: (groups, filters, 1, 1) or a scalar; without amplitude it has no gradient.
        amplitude: Of the shape of `rate`.
    """
    function = _respond if torch.compiler.is_compiling() else _Respond.apply
    return function(projection, inverse, rate, amplitude)


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(-3, (groups, -1))  # type: ignore[no-untyped-call,no-any-return]


def _limit(projection: Tensor) -> float:
    return 1 - torch.finfo(projection.dtype).eps


class _SquareSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.groups = groups
        if x.device.type == "cpu" and x.stride(-3) != 1:  # the norm of strided values is slow on CPUs
            return x, _grouped(x, groups).to(wide_dtype(x)).square().sum(-3)
        return x, torch.linalg.vector_norm(_grouped(x, groups), dim=-3, dtype=wide_dtype(x)).square_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, by_sum: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        x, by_sum = _grouped(x, ctx.groups), 2 * by_sum.unsqueeze(-3)
        if torch.is_grad_enabled():
            return gradient + (x * by_sum).flatten(-4, -3).to(x.dtype), None
        _grouped(gradient, ctx.groups).addcmul_(x, by_sum)
        return gradient, None


def _respond(projection: Tensor, inverse: Tensor, rate: Tensor | None, amplitude: Tensor | None) -> Tensor:
    cosine = projection * inverse
    if rate is None:
        return cosine
    angle = cosine.clamp(-_limit(projection), _limit(projection)).asin() * rate
    return angle if amplitude is None else torch.sigmoid(angle) * (2 * amplitude) - amplitude


class _Respond(Function):
    @staticmethod
    def forward(ctx: Any, projection: Tensor, inverse: Tensor, rate: Tensor | None, amplitude: Tensor | None) -> Tensor:
        response = projection * inverse
        if rate is not None:
            response.clamp_(-_limit(projection), _limit(projection)).asin_().mul_(rate)
        if amplitude is not None:
            response.sigmoid_().mul_(2 * amplitude).sub_(amplitude)
        ctx.save_for_backward(projection, inverse, rate, amplitude)  # a ReLU may change the response
        return response

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projection, inverse, rate, amplitude = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(ctx.saved_tensors, ctx.needs_input_grad, gradient)
        by_rate = by_amplitude = None
        if rate is None:
            scratch = gradient * projection
            by_inverse = scratch.sum(-3, keepdim=True)
            return torch.mul(gradient, inverse, out=scratch).to(projection.dtype), by_inverse, None, None
        cosine = projection * inverse
        slope = torch.addcmul(cosine.new_ones(()), cosine, cosine, value=-1)
        slope = F.threshold(slope, 1 - _limit(projection) ** 2, math.inf, inplace=True).rsqrt_().mul_(gradient)
        if amplitude is None:
            slope.mul_(rate)
        else:
            learnable = ctx.needs_input_grad[2]
            cosine.clamp_(-_limit(projection), _limit(projection)).asin_()
            sigmoid = (cosine * rate if learnable else cosine.mul_(rate)).sigmoid_()
            if learnable:
                by_amplitude = (gradient * sigmoid).mul_(2).sub_(gradient).sum_to_size(amplitude.shape)
            bell = sigmoid.addcmul_(sigmoid, sigmoid, value=-1).mul_(2 * amplitude * rate)
            slope.mul_(bell)
            if learnable:
                by_rate = bell.mul_(gradient).mul_(cosine).sum_to_size(rate.shape) / rate
        by_inverse = torch.mul(slope, projection, out=cosine).sum(-3, keepdim=True)
        return slope.mul_(inverse).to(projection.dtype), by_inverse, by_rate, by_amplitude


def _differentiable(
    inputs: tuple[Tensor, ...], needed: tuple[bool, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of `_respond`, for second derivatives."""
    variables = [x for x, is_needed in zip(inputs, needed, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad(_respond(*inputs), variables, gradient, create_graph=True))
    return tuple(next(gradients) if is_needed else None for is_needed in needed)
