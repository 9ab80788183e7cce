"""The steps of `SphereConv2d` around its convolution, with as few passes and new tensors as they need.

Each has a plain form, which torch.compile fuses and which second derivatives go through, and an autograd function
for everything else: on large activations the time goes into new tensors, and plain autograd makes three times as many.
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
    """Sums of squares over the channels of each group: (..., C, H, W) -> x itself and (..., groups, H, W).

    The x that is returned must go into one convolution and nowhere else: its gradient then is that convolution's own,
    and backward adds to it in place. The sums are float32, or float64 for such an x.
    """
    if torch.compiler.is_compiling():
        return x, _grouped(x, groups).to(wide_dtype(x)).square().sum(-3)
    return _SquareSum.apply(x, groups)  # type: ignore[no-any-return]


def respond(projection: Tensor, inverse: Tensor, rate: Tensor | None, amplitude: Tensor | None) -> Tensor:
    """amplitude (2 sigmoid(rate asin(c)) - 1) with c = projection * inverse, held inside (-1, 1).

    Without amplitude it is rate asin(c), without rate c as it is.

    Args:
        projection: w.x / ||w||, (..., groups, filters, H, W).
        inverse: 1 / ||x||, (..., groups, 1, H, W), float32 or float64, as what is returned.
        rate: (groups, filters, 1, 1) or a scalar; without amplitude it gets no gradient.
        amplitude: the same.
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
        if x.device.type == "cpu" and x.stride(-3) != 1:  # where a norm of strided values is slow
            return x, _grouped(x, groups).to(wide_dtype(x)).square().sum(-3)
        return x, torch.linalg.vector_norm(_grouped(x, groups), dim=-3, dtype=wide_dtype(x)).square_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_sum: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        x, of_sum = _grouped(x, ctx.groups), 2 * of_sum.unsqueeze(-3)
        if torch.is_grad_enabled():
            return gradient + (x * of_sum).flatten(-4, -3).to(x.dtype), None
        _grouped(gradient, ctx.groups).addcmul_(x, of_sum)
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
        ctx.save_for_backward(projection, inverse, rate, amplitude)  # not the response: a ReLU may work in place
        return response

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projection, inverse, rate, amplitude = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(ctx.saved_tensors, ctx.needs_input_grad, gradient)
        of_rate = of_amplitude = None
        if rate is None:
            scratch = gradient * projection
            of_inverse = scratch.sum(-3, keepdim=True)
            return torch.mul(gradient, inverse, out=scratch).to(projection.dtype), of_inverse, None, None
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
                of_amplitude = (gradient * sigmoid).mul_(2).sub_(gradient).sum_to_size(amplitude.shape)
            bell = sigmoid.addcmul_(sigmoid, sigmoid, value=-1).mul_(2 * amplitude * rate)
            slope.mul_(bell)
            if learnable:
                of_rate = bell.mul_(gradient).mul_(cosine).sum_to_size(rate.shape) / rate
        of_inverse = torch.mul(slope, projection, out=cosine).sum(-3, keepdim=True)
        return slope.mul_(inverse).to(projection.dtype), of_inverse, of_rate, of_amplitude


def _differentiable(
    inputs: tuple[Tensor, ...], needed: tuple[bool, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of `_respond` for a backward that is differentiated itself."""
    wanted = [each for each, is_needed in zip(inputs, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(_respond(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)
