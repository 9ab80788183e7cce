"""Hyperspherical energy: how evenly directions are spread over the unit sphere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sfplus.hypersphere.riesz_kernel import TF1_NORM_EPSILON, Distance, Kernel, Preset, wide_dtype

_BLOCK = {"cpu": 1024, "cuda": 4096}  # rows and columns of the blocks of cosines, 4 MB and 64 MB each


def hyperspherical_energy(
    weights: Tensor,
    power: float = 2.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
    reduction: Literal["mean_pairs", "sum"] = "mean_pairs",
    preset: Preset = "exact",
) -> Tensor:
    """The Riesz energy of N directions: the sum of f_s over unordered pairs, or its mean (MHE paper, section 3).

    f_s(z) = z^-s and f_0(z) = log(1/z) of the distance z between two unit vectors. Small energy means evenly spread
    directions. For independent random directions in many dimensions the mean tends to -ln(2)/2, 1/sqrt(2) and 1/2
    for s = 0, 1 and 2.

    With `half_space` every direction brings its opposite along (MHE paper, section 3.3): the energy is that of the 2N
    directions [W, -W], pairs of a direction and its own opposite included, at the cost of N.

    Gradients of first and second order are exact, but for pairs closer than the floor of `Kernel`, which have none;
    duplicates, opposites and zero vectors give finite values. Memory is O(N d): cosines exist in blocks only, each
    unordered pair of blocks is computed once, and the gradient is found in the same pass as the value, so that
    `backward` does not visit the pairs again. Under autocast the computation stays in float32; TF32, where it was
    allowed, is not used. torch.compile takes it as one operator (first derivatives only); torch.func does not.

    The preset `tf1` gives what the original TensorFlow code computes (`mhe` and `half_mhe` of MHE, architecture.py):
    norms sqrt(||w||^2 + 1e-4), -log of the squared chord for s = 0, angles as acos/pi + 1e-4.

    Args:
        weights: directions of any norm (N, d), or sets of them (..., N, d) that give an energy each; floating.
        power: s >= 0.
        distance: `euclidean` (the chord) or `geodesic` (the angle in radians; A-MHE).
        half_space: whether a direction and its opposite are the same neuron.
        reduction: `mean_pairs` or `sum`, over unordered pairs; 2N(2N - 1)/2 of them in half-space.
        preset: `exact` or `tf1`.

    Returns:
        A scalar, or (...); float32, or float64 where `weights` is.

    Raises:
        ValueError: fewer than two directions, which have no energy, or a wrong argument.
    """
    kernel = Kernel(float(power), distance, half_space, preset)
    if weights.ndim < 2 or weights.shape[-2] < 2:
        raise ValueError(f"an energy needs (..., N, d) with N of 2 or more, not {tuple(weights.shape)}")
    if reduction not in ("mean_pairs", "sum"):
        raise ValueError(f"the reduction is mean_pairs or sum, not '{reduction}'")
    *sets, count, size = weights.shape
    with torch.autocast(weights.device.type, enabled=False):
        unit = directions(weights, preset).reshape(-1, count, size)
        needs_gradient = torch.is_grad_enabled() and unit.requires_grad
        total = pair_energy(unit, kernel.power, distance, half_space, preset, needs_gradient)[0]
        if half_space:
            total = 2 * total + _opposites(unit, kernel)
            count *= 2
        if reduction == "mean_pairs":
            total = total / (count * (count - 1) / 2)
        energy: Tensor = total.reshape(sets)
        return energy


def directions(weights: Tensor, preset: Preset = "exact") -> Tensor:
    """Vectors (..., d) at unit norm, float32 or wider; a zero vector stays zero, at right angles to all, and has no
    gradient. The preset `tf1` divides by sqrt(||w||^2 + 1e-4), which makes small vectors shorter than 1."""
    unit: Tensor = _Normalise.apply(weights.to(wide_dtype(weights)), TF1_NORM_EPSILON if preset == "tf1" else 0.0)[0]
    return unit


class _Normalise(torch.autograd.Function):
    """w / n and n, with n = sqrt(||w||^2 + epsilon), in half the passes that autograd would make over a gradient.

    Squares are summed in float64, so that equal rows get equal cosines and float32 rows of any norm do not overflow.
    """

    @staticmethod
    def forward(weights: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(weights, dim=-1, keepdim=True, dtype=_sum_dtype(weights))
        norm = (norm.square() + epsilon).sqrt() if epsilon else norm.masked_fill(norm == 0, torch.inf)
        norm = norm.to(weights.dtype)
        return weights / norm, norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, by_unit: Tensor | None, by_norm: Tensor | None) -> tuple[Tensor | None, None]:
        unit, norm = ctx.saved_tensors
        result = None
        if by_unit is not None:
            along = torch.linalg.vecdot(by_unit, unit).unsqueeze(-1)
            result = torch.addcmul(by_unit, along, unit, value=-1) / norm
        if by_norm is not None:  # in second derivatives only
            result = by_norm * unit if result is None else result + by_norm * unit
        return result, None


def _sum_dtype(values: Tensor) -> torch.dtype:
    """Float64, where the device has it."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def _opposites(unit: Tensor, kernel: Kernel) -> Tensor:
    """The energy of the N pairs of a direction and its own opposite, (sets,)."""
    one_side = Kernel(kernel.power, kernel.distance, preset=kernel.preset)
    if kernel.preset == "tf1":  # its directions are shorter than 1, so that these pairs have a gradient
        return one_side.value(-unit.square().sum(-1)).sum(-1)
    opposite = one_side.value(unit.new_full((1,), -1.0))
    return (opposite * unit.shape[1]).expand(len(unit))


@torch.library.custom_op("sfplus::pair_energy", mutates_args=())
def pair_energy(
    unit: Tensor, power: float, distance: str, half_space: bool, preset: str, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The sum of a kernel over unordered pairs, and its gradient, without an N x N matrix.

    An operator of torch, so that torch.compile takes it as it is. Differentiable twice.

    Args:
        unit: directions (sets, N, d), float32 or float64.
        power: of the `Kernel`, as the next three.
        distance: see there.
        half_space: see there.
        preset: see there.
        needs_gradient: whether to compute the gradient; without it the second result is empty.

    Returns:
        The sums (sets,) and their gradients by the inner products (sets, N, d); the norm of `unit` is the caller's.
    """
    kernel = Kernel(power, distance, half_space, preset)
    total = unit.new_zeros(len(unit), dtype=_sum_dtype(unit))
    gradient = torch.zeros_like(unit) if needs_gradient else unit.new_empty(0)
    with _without_tf32(unit):
        for sets, rows, columns in _blocks(unit):
            here, there = unit[sets, rows], unit[sets, columns]
            value, *slopes = kernel.derivatives(here @ there.mT, int(needs_gradient))
            own = rows == columns
            if own:
                value.diagonal(dim1=1, dim2=2).zero_()
            total[sets] += value.sum((1, 2)) * (0.5 if own else 1.0)
            for slope in slopes:
                if own:
                    slope.diagonal(dim1=1, dim2=2).zero_()
                else:
                    gradient[sets, columns].baddbmm_(slope.mT, here)
                gradient[sets, rows].baddbmm_(slope, there)
    return total.to(unit.dtype), gradient


@torch.library.custom_op("sfplus::pair_energy_curvature", mutates_args=())
def pair_energy_curvature(
    unit: Tensor, along: Tensor, power: float, distance: str, half_space: bool, preset: str
) -> Tensor:
    """The derivative of <gradient of `pair_energy`, along> by `unit`: (sets, N, d), as both arguments."""
    kernel = Kernel(power, distance, half_space, preset)
    result = torch.zeros_like(unit)
    with _without_tf32(unit):
        for sets, rows, columns in _blocks(unit):
            here, there = unit[sets, rows], unit[sets, columns]
            along_here, along_there = along[sets, rows], along[sets, columns]
            _, slope, curvature = kernel.derivatives(here @ there.mT, 2)
            curvature *= along_here @ there.mT + here @ along_there.mT
            if rows == columns:
                slope.diagonal(dim1=1, dim2=2).zero_()
                curvature.diagonal(dim1=1, dim2=2).zero_()
            else:
                result[sets, columns].baddbmm_(slope.mT, along_here).baddbmm_(curvature.mT, here)
            result[sets, rows].baddbmm_(slope, along_there).baddbmm_(curvature, there)
    return result


def _blocks(unit: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of sets, rows and columns that together cover each unordered pair once; none has more than side^2."""
    sets, count, side = len(unit), unit.shape[1], _BLOCK.get(unit.device.type, 1024)
    together = max(1, (side // 2) ** 2 // min(count, side) ** 2)  # many small sets: a block fits the cache of a core
    for first in range(0, sets, together):
        for row in range(0, count, side):
            for column in range(row, count, side):
                yield slice(first, first + together), slice(row, row + side), slice(column, column + side)


@contextlib.contextmanager
def _without_tf32(unit: Tensor) -> Iterator[None]:
    """Products of full float32 on a GPU, whatever the program allows elsewhere: 2 - 2 cos does not bear 10 bits."""
    if unit.device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pair_energy.register_fake
def _(
    unit: Tensor, power: float, distance: str, half_space: bool, preset: str, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    return unit.new_empty(len(unit)), torch.empty_like(unit) if needs_gradient else unit.new_empty(0)


@pair_energy_curvature.register_fake
def _(unit: Tensor, along: Tensor, power: float, distance: str, half_space: bool, preset: str) -> Tensor:
    return torch.empty_like(unit)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    unit, *ctx.kernel, ctx.has_gradient = inputs
    ctx.save_for_backward(unit, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, by_total: Tensor | None, by_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
    unit, gradient = ctx.saved_tensors
    if not ctx.has_gradient:
        raise RuntimeError("this energy was computed without its gradient")
    result = None if by_total is None else by_total[:, None, None] * gradient
    if by_gradient is not None:
        more = pair_energy_curvature(unit, by_gradient, *ctx.kernel)
        result = more if result is None else result + more
    return (result, *[None] * 5)


pair_energy.register_autograd(_backward, setup_context=_remember)
