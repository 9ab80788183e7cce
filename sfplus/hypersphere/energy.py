"""Hyperspherical energy of a set of directions, small if they are evenly distributed over the unit sphere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sfplus.hypersphere.collectives import whole
from sfplus.hypersphere.riesz_kernel import TF1_NORM_EPSILON, Distance, Kernel, Preset, wide_dtype

_BLOCK = {"cpu": 1024, "cuda": 4096}  # rows and columns of the blocks of cosines, 4 MB and 64 MB each
_PAIRS = {"cpu": 100_000, "cuda": 2048**2}  # of small sets that share a block, per thread of a CPU, to fit its cache


def hyperspherical_energy(
    weights: Tensor,
    power: float = 2.0,
    distance: Distance = "euclidean",
    half_space: bool = False,
    reduction: Literal["mean_pairs", "sum"] = "mean_pairs",
    preset: Preset = "exact",
) -> Tensor:
    """Return the Riesz energy of N directions, the mean or sum of f_s over unordered pairs (MHE paper, section 3).

    f_s(z) = z^-s and f_0(z) = log(1/z) of the distance z between two unit vectors. A small energy means that the
    directions are evenly distributed. For independent random directions in many dimensions the mean tends to
    -ln(2)/2, 1/sqrt(2) and 1/2 for s = 0, 1 and 2.

    With `half_space` the energy is that of the 2N directions [W, -W], including the pairs of a direction and its
    opposite (MHE paper, section 3.3), at the cost of N.

    Gradients of first and second order are exact, except for pairs closer than the floor of `Kernel`, which have
    none; duplicates, opposites and zero vectors give finite values. Memory is O(N d): cosines exist only in blocks,
    each unordered pair of blocks is computed once, and the gradient is computed in the same pass as the value, so
    that `backward` does not visit the pairs again. Under autocast the computation stays in float32, without TF32 even
    if it is enabled. torch.compile includes it as one operator (first derivatives only); torch.func does not support
    it.

    The preset `tf1` reproduces the original TensorFlow code (`mhe` and `half_mhe` of MHE, architecture.py):
    norms sqrt(||w||^2 + 1e-4), -log of the squared chord for s = 0, angles as acos/pi + 1e-4.

    Args:
        weights: Directions of any norm (N, d), or sets of directions (..., N, d) with one energy each; floating. A
            sharded tensor (DTensor) is gathered.
        power: Power s >= 0.
        distance: `euclidean` (the chord) or `geodesic` (the angle in radians; A-MHE).
        half_space: Treat a direction and its opposite as the same neuron.
        reduction: `mean_pairs` or `sum`, over unordered pairs; 2N(2N - 1)/2 pairs in half-space.
        preset: `exact` or `tf1`.

    Returns:
        A scalar, or (...); float64 for float64 weights, otherwise float32.

    Raises:
        ValueError: If there are fewer than two directions, or an argument is not supported.
    """
    kernel = Kernel(float(power), distance, half_space, preset)
    if weights.ndim < 2 or weights.shape[-2] < 2:
        raise ValueError(f"an energy needs (..., N, d) with N of 2 or more, not {tuple(weights.shape)}")
    if reduction not in ("mean_pairs", "sum"):
        raise ValueError(f"the reduction must be mean_pairs or sum, not '{reduction}'")
    weights = whole(weights)
    *sets, count, size = weights.shape
    with torch.autocast(weights.device.type, enabled=False):
        weights = weights.to(wide_dtype(weights)).reshape(-1, count, size)
        cosine = _few_cosines(weights, preset)
        if cosine is not None:
            total = kernel.value(cosine).triu(1).sum((1, 2))
        else:
            unit = directions(weights, preset)
            needs_gradient = torch.is_grad_enabled() and unit.requires_grad
            total = pair_energy(unit, kernel.power, distance, half_space, preset, needs_gradient)[0]
        if half_space:
            opposite = -weights.new_ones(len(weights), count)
            if preset == "tf1":  # directions are shorter than 1, so that these pairs have a gradient
                opposite = -unit.square().sum(-1) if cosine is None else -cosine.diagonal(dim1=1, dim2=2)
            total = 2 * total + Kernel(kernel.power, distance, preset=preset).value(opposite).sum(-1)
            count *= 2
        if reduction == "mean_pairs":
            total = total / (count * (count - 1) / 2)
        energy: Tensor = total.reshape(sets)
        return energy


def directions(weights: Tensor, preset: Preset = "exact") -> Tensor:
    """Normalise vectors (..., d) to unit norm, in float32 or wider.

    A zero vector stays zero, at right angles to all others, and has no gradient. The preset `tf1` divides by
    sqrt(||w||^2 + 1e-4), which makes small vectors shorter than 1.
    """
    unit: Tensor = _Normalise.apply(weights.to(wide_dtype(weights)), TF1_NORM_EPSILON if preset == "tf1" else 0.0)[0]
    return unit


class _Normalise(torch.autograd.Function):
    """Compute w / n and n, with n = sqrt(||w||^2 + epsilon), in half of autograd's passes over the gradient.

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
    """Return float64 where the device supports it."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def _few_cosines(weights: Tensor, preset: str) -> Tensor | None:
    """Return the cosines (sets, N, N) of few directions on a CPU: most of the time is then that of two products.

    Directions would be more passes over `weights`, which has more entries than there are pairs. None if the blocks of
    `pair_energy` are better, or if the square of a norm is close to the limits of float32.
    """
    _, count, size = weights.shape
    if weights.device.type != "cpu" or torch.compiler.is_compiling() or count > min(size, _BLOCK["cpu"]):
        return None
    products: Tensor = _Products.apply(weights)
    squared = products.diagonal(dim1=1, dim2=2)
    if not ((squared > 1e-30) & (squared < 1e30)).all():
        return None
    norm = (squared + TF1_NORM_EPSILON if preset == "tf1" else squared).sqrt()
    return products / (norm.unsqueeze(2) * norm.unsqueeze(1))


class _Products(torch.autograd.Function):
    """Compute w @ w.mT, with one product in backward where autograd has two."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return weights @ weights.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        with torch.autocast(weights.device.type, enabled=False):
            result: Tensor = (gradient + gradient.mT) @ weights
        return result


@torch.library.custom_op("sfplus::pair_energy", mutates_args=())
def pair_energy(
    unit: Tensor, power: float, distance: str, half_space: bool, preset: str, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the sum of a kernel over unordered pairs, and its gradient, without an N x N matrix.

    A custom operator, so that torch.compile does not trace into it. Differentiable twice.

    Args:
        unit: Directions (sets, N, d), float32 or float64.
        power: Power of the `Kernel`.
        distance: Distance of the `Kernel`.
        half_space: As in `Kernel`.
        preset: As in `Kernel`.
        needs_gradient: Compute the gradient; otherwise the second result is empty.

    Returns:
        The sums (sets,) and their gradients (sets, N, d) through the inner products; the caller normalises `unit`.
    """
    kernel = Kernel(power, distance, half_space, preset)
    total = unit.new_zeros(len(unit), dtype=_sum_dtype(unit))
    gradient = torch.zeros_like(unit) if needs_gradient else unit.new_empty(0)
    with _without_tf32(unit):
        for sets, rows, columns in _blocks(unit):
            left, right = unit[sets, rows], unit[sets, columns]
            value, *slopes = kernel.derivatives(left @ right.mT, int(needs_gradient))
            on_diagonal = rows == columns
            if on_diagonal:
                value.diagonal(dim1=1, dim2=2).zero_()
            total[sets] += value.sum((1, 2)) * (0.5 if on_diagonal else 1.0)
            for slope in slopes:
                if on_diagonal:
                    slope.diagonal(dim1=1, dim2=2).zero_()
                else:
                    gradient[sets, columns].baddbmm_(slope.mT, left)
                gradient[sets, rows].baddbmm_(slope, right)
    return total.to(unit.dtype), gradient


@torch.library.custom_op("sfplus::pair_energy_curvature", mutates_args=())
def pair_energy_curvature(
    unit: Tensor, along: Tensor, power: float, distance: str, half_space: bool, preset: str
) -> Tensor:
    """Return the derivative of <gradient of `pair_energy`, along> with respect to `unit`, both (sets, N, d)."""
    kernel = Kernel(power, distance, half_space, preset)
    result = torch.zeros_like(unit)
    with _without_tf32(unit):
        for sets, rows, columns in _blocks(unit):
            left, right = unit[sets, rows], unit[sets, columns]
            along_left, along_right = along[sets, rows], along[sets, columns]
            _, slope, curvature = kernel.derivatives(left @ right.mT, 2)
            curvature *= along_left @ right.mT + left @ along_right.mT
            if rows == columns:
                slope.diagonal(dim1=1, dim2=2).zero_()
                curvature.diagonal(dim1=1, dim2=2).zero_()
            else:
                result[sets, columns].baddbmm_(slope.mT, along_left).baddbmm_(curvature.mT, left)
            result[sets, rows].baddbmm_(slope, along_right).baddbmm_(curvature, right)
    return result


def _blocks(unit: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Yield blocks of sets, rows and columns that cover each unordered pair once, with at most side^2 pairs each."""
    sets, count, device = len(unit), unit.shape[1], unit.device.type
    side = _BLOCK.get(device, 1024)
    pairs = _PAIRS.get(device, 100_000) * (torch.get_num_threads() if device == "cpu" else 1)
    stack = max(1, pairs // min(count, side) ** 2)
    for first in range(0, sets, stack):
        for row in range(0, count, side):
            for column in range(row, count, side):
                yield slice(first, first + stack), slice(row, row + side), slice(column, column + side)


@contextlib.contextmanager
def _without_tf32(unit: Tensor) -> Iterator[None]:
    """Disable TF32 on a GPU, even if the program enables it: its 10 bits are too few for 2 - 2 cos."""
    if unit.device.type != "cuda":
        yield
        return
    previous = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = previous


@pair_energy.register_fake
def _(
    unit: Tensor, power: float, distance: str, half_space: bool, preset: str, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    return unit.new_empty(len(unit)), torch.empty_like(unit) if needs_gradient else unit.new_empty(0)


@pair_energy_curvature.register_fake
def _(unit: Tensor, along: Tensor, power: float, distance: str, half_space: bool, preset: str) -> Tensor:
    return torch.empty_like(unit)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    unit, *ctx.kernel, ctx.has_gradient = inputs
    ctx.save_for_backward(unit, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, by_total: Tensor | None, by_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
    unit, gradient = ctx.saved_tensors
    if not ctx.has_gradient:
        raise RuntimeError("this energy was computed without its gradient")
    result = None if by_total is None else by_total[:, None, None] * gradient
    if by_gradient is not None:
        second = pair_energy_curvature(unit, by_gradient, *ctx.kernel)
        result = second if result is None else result + second
    return (result, *[None] * 5)


pair_energy.register_autograd(_backward, setup_context=_setup_context)
