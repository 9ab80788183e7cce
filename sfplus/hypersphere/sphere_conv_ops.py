"""The steps of `SphereConv2d` before and after its convolution, with few passes and few new tensors.

Each has a plain form, which torch.compile fuses and second derivatives use, and an autograd function for all other
cases: on large activations most of the time is spent on new tensors, and plain autograd allocates three times as many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from sfplus.hypersphere.riesz_kernel import wide_dtype

_PART = 2**18  # entries of a map that each thread works on at once, 1 MB

_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
"""True if another backward through the same graph may follow; torch 2.10 has no public name for this."""


def square_sum(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sum squares over the channels of each group: (..., C, H, W) -> x itself and (..., groups, H, W).

    The returned x must be the input of one convolution and of nothing else: its gradient is then that of this
    convolution alone, and backward adds to it in place. The sums are float32, or float64 for float64 inputs.
    """
    if torch.compiler.is_compiling():
        return x, _grouped(x, groups).to(wide_dtype(x)).square().sum(-3)
    return _SquareSum.apply(x, groups)  # type: ignore[no-any-return]


def respond(
    projection: Tensor, inverse: Tensor, rate: Tensor | None, amplitude: Tensor | None, *rescaling: Tensor
) -> Tensor:
    """Return amplitude (2 sigmoid(rate asin(c)) - 1) with c = projection * inverse, clamped inside (-1, 1).

    Without amplitude the result is rate asin(c), without rate it is c, not clamped. With rescaling, three tensors of
    the shape of a learned `rate`, it becomes rescaling[0] ||x||^rescaling[1] times that, plus rescaling[2].

    Args:
        projection: w.x / ||w||, (..., groups, filters, H, W), which the last backward overwrites: nothing else may
            use it.
        inverse: 1 / ||x||, (..., groups, 1, H, W), float32 or float64; the result has its dtype.
        rate: (groups, filters, 1, 1) or a scalar; without amplitude it has no gradient.
        amplitude: Of the shape of `rate`.
        rescaling: Nothing, or scale, rho and bias.
    """
    function = _respond if torch.compiler.is_compiling() else _Respond.apply
    return function(projection, inverse, rate, amplitude, *rescaling)


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(-3, (groups, -1))  # type: ignore[no-untyped-call,no-any-return]


def _limit(projection: Tensor) -> float:
    return 1 - torch.finfo(projection.dtype).eps


def _parts(scratch: int, *maps: Tensor) -> Iterator[tuple[Any, ...]]:
    """Divide maps along the batch into parts that stay in a core's cache between operations.

    After the parts comes a list of maps of the size of the first, float32 or wider, to write results to: they are the
    same for all parts, because on a CPU new memory costs more than ten operations. On a GPU there is one part, and None
    instead of such a map.
    """
    first = maps[0]
    if first.device.type != "cpu":
        yield *maps, [None] * scratch
        return
    entries = _PART * torch.get_num_threads()
    size = max(1, len(first) if first.ndim < 5 else entries // max(1, first[:1].numel()))
    buffers = [torch.empty_like(first[:size], dtype=wide_dtype(first)) for _ in range(scratch)]
    for part in zip(*[torch.split(x, size) for x in maps], strict=True):
        yield *part, [buffer[: len(part[0])] for buffer in buffers]


class _SquareSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.groups = groups
        if x.device.type == "cpu" and x.stride(-3) != 1:  # the norm of strided values is slow on CPUs
            maps = _grouped(x, groups)
            sums = maps.new_empty(*maps.shape[:-3], *maps.shape[-2:], dtype=wide_dtype(x))
            for part, total, (squares,) in _parts(1, maps, sums):
                torch.sum(squares.copy_(part).square_(), -3, out=total)
            return x, sums
        return x, torch.linalg.vector_norm(_grouped(x, groups), dim=-3, dtype=wide_dtype(x)).square_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, by_sum: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        x, by_sum = _grouped(x, ctx.groups), 2 * by_sum.unsqueeze(-3)
        if torch.is_grad_enabled():
            return gradient + (x * by_sum).flatten(-4, -3).to(x.dtype), None
        _grouped(gradient, ctx.groups).addcmul_(x, by_sum)
        return gradient, None


def _respond(
    projection: Tensor, inverse: Tensor, rate: Tensor | None, amplitude: Tensor | None, *rescaling: Tensor
) -> Tensor:
    response = projection * inverse
    if rate is not None:
        response = response.clamp(-_limit(projection), _limit(projection)).asin() * rate
    if amplitude is not None:
        response = torch.sigmoid(response) * (2 * amplitude) - amplitude
    if rescaling:
        scale, rho, bias = rescaling
        response = torch.addcmul(bias, response * scale, (inverse.log() * -rho).exp())
    return response


class _Respond(Function):
    @staticmethod
    def forward(
        ctx: Any,
        projection: Tensor,
        inverse: Tensor,
        rate: Tensor | None,
        amplitude: Tensor | None,
        *rescaling: Tensor,
    ) -> Tensor:
        result = torch.empty_like(projection, dtype=inverse.dtype)
        factor = _factor(amplitude, *rescaling)
        for part, norm, response, scratch in _parts(1, projection, inverse, result):
            torch.mul(part, norm, out=response)
            if rate is not None:
                response.clamp_(-_limit(projection), _limit(projection)).asin_().mul_(rate)
            if amplitude is not None:
                response.sigmoid_().sub_(0.5)
            if factor is not None:
                response.mul_(factor)
            if rescaling:
                _, rho, bias = rescaling
                torch.addcmul(bias, response, _power(norm.log(), rho, scratch[0]), out=response)
        ctx.save_for_backward(projection, inverse, rate, amplitude, *rescaling)  # a ReLU may change the response
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable(ctx.saved_tensors, ctx.needs_input_grad, gradient)
        projection, inverse, *parameters = ctx.saved_tensors
        # the projection is used by nothing else, so its memory may become that of its gradient in the last backward
        is_last = not torch.compiler.is_compiling() and not _graph_is_kept()
        results = projection if is_last else torch.empty_like(projection), torch.empty_like(inverse)
        sums = [torch.zeros_like(x) if needed else None
                for x, needed in zip(parameters, ctx.needs_input_grad[2:], strict=True)]  # fmt: skip
        for part in _parts(6, gradient, projection, inverse, *results):
            _respond_backward(parameters, sums, *part)
        return *results, *sums


def _respond_backward(
    parameters: list[Any],
    sums: list[Any],
    gradient: Tensor,
    projection: Tensor,
    inverse: Tensor,
    by_projection: Tensor,
    by_inverse: Tensor,
    scratch: list[Any],
) -> None:
    """Write the gradients of two maps, a part of the batch, and add those of rate, amplitude and rescaling to sums.

    The response is bias + factor * power * curve, where curve is the cosine, the angle * rate or its sigmoid - 1/2.
    """
    rate, amplitude, *rescaling = parameters
    cosine, slope, curve, power, product, weighted = scratch
    factor, limit = _factor(amplitude, *rescaling), _limit(projection)
    steepness = factor if rate is None else rate if factor is None else rate * factor
    if steepness is not None:
        cosine = torch.mul(projection, inverse, out=cosine)
    if rate is None:
        curve = cosine
    else:
        slope = torch.addcmul(cosine.new_ones(()), cosine, cosine, value=-1, out=slope)
        F.threshold(slope, 1 - limit**2, math.inf, inplace=True).rsqrt_()
        if factor is not None:
            angle = cosine.clamp_(-limit, limit).asin_()
            curve = torch.mul(angle, rate, out=curve)
    if amplitude is not None:
        curve.sigmoid_().sub_(0.5)
    if rescaling:
        scale, rho, _ = rescaling
        log = inverse.log()
        _add(sums[4], gradient)
        gradient = _power(log, rho, power).mul_(gradient)
    if factor is not None:
        product = torch.mul(gradient, curve, out=product)
    if amplitude is not None:
        _add(sums[1], product, 2 * scale if rescaling else 2)
        gradient = torch.addcmul(gradient, product, curve, value=-4, out=curve)  # 4 times that of angle * rate
        steepness = steepness / 4
    if rescaling:
        _add(sums[2], product, 1 if amplitude is None else 2 * amplitude)
        by_log = torch.mul(product, -rho * factor, out=weighted).sum(-3, keepdim=True)
        _add(sums[3], product.mul_(log), -factor)
    if sums[0] is not None:
        product = torch.mul(gradient, angle, out=product)
        _add(sums[0], product, factor / 4)
    by_cosine = gradient if rate is None else slope.mul_(gradient)
    if steepness is not None:
        by_cosine.mul_(steepness)
    torch.sum(torch.mul(by_cosine, projection, out=product), -3, keepdim=True, out=by_inverse)
    if rescaling:
        by_inverse.addcdiv_(by_log, inverse)
    torch.mul(by_cosine, inverse, out=by_projection)


def _factor(amplitude: Tensor | None, *rescaling: Tensor) -> Any:
    """Return the factor of the curve, 2 amplitude scale, without those that are missing."""
    if amplitude is None:
        return rescaling[0] if rescaling else None
    return 2 * amplitude * rescaling[0] if rescaling else 2 * amplitude


def _power(log: Tensor, rho: Tensor, out: Tensor | None) -> Tensor:
    """Return exp(-rho log); torch computes exp2 at twice the rate of exp."""
    return torch.mul(log, rho / -math.log(2), out=out).exp2_()


def _add(total: Tensor | None, values: Tensor, factor: Tensor | float = 1) -> None:
    """Add values, summed over pixels and then multiplied by factor, to the gradient of a parameter that needs one."""
    if total is not None:
        total.add_(values.sum_to_size(total.shape) * factor)


def _differentiable(
    inputs: tuple[Tensor, ...], needed: tuple[bool, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients of `_respond`, for second derivatives."""
    variables = [x for x, is_needed in zip(inputs, needed, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad(_respond(*inputs), variables, gradient, create_graph=True))
    return tuple(next(gradients) if is_needed else None for is_needed in needed)
