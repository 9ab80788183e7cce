"""Sums, maxima and gathers over the ranks of a process group, with their gradients.

All of them assume that every rank computes the same scalar loss, and a gradient is that of this one loss. A tensor
that is equal on all ranks, each of which uses it for its own share of the work, has a part of its gradient on each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.riesz_kernel import wide_dtype


def all_gather(result: Tensor, values: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Concatenate the tensors of all ranks in `result`; the second name is that of torch before 2.13."""
    gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(result, values, group=group)


def _reduce_scatter(result: Tensor, values: Tensor, group: dist.ProcessGroup | None) -> None:
    """Write this rank's share of the sum over the ranks to `result`."""
    scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(result, values, group=group)


class Ranks:
    """A process group, or a single process if none was initialised."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        initialised = dist.is_available() and dist.is_initialized()
        self.group = group
        self.world, self.rank = (dist.get_world_size(group), dist.get_rank(group)) if initialised else (1, 0)
        if self.rank < 0:
            raise ValueError("this process is not in the process group")

    def part(self, count: int, rank: int) -> tuple[int, int]:
        """Return first and last + 1 of the share of `count` items of a rank; shares differ by one item at most."""
        return count * rank // self.world, count * (rank + 1) // self.world

    def add(self, values: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """Take the maximum of a tensor over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Gather a tensor (...) of each rank to (W, ...); the shape is the same on all."""
        result = values.new_empty(self.world, *values.shape)
        if self.world == 1:
            return result.copy_(values[None])
        all_gather(result.view(-1), values.contiguous().view(-1), self.group)
        return result

    def reduce_scatter(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks of this rank's entry, (W, ...) of each rank -> (...)."""
        result = values.new_empty(values.shape[1:])
        if self.world == 1:
            return result.copy_(values[0])
        _reduce_scatter(result.view(-1), values.contiguous().view(-1), self.group)
        return result


def whole(values: Tensor, averaged: bool = False) -> Tensor:
    """Gather a sharded tensor (DTensor, of `fully_shard` for example) on all ranks; others are returned as they are.

    Args:
        values: Any tensor.
        averaged: The losses of the ranks differ, and the gradient is that of their mean, as in data parallelism;
            by default the loss is equal on all ranks.
    """
    if not hasattr(values, "full_tensor"):
        return values
    if not averaged:
        gathered: Tensor = values.full_tensor()
        return gathered
    from torch.distributed.tensor import Partial  # only for programs that have imported it

    placements = [Partial()] * values.device_mesh.ndim  # type: ignore[attr-defined]
    return scale_gradient(values.full_tensor(grad_placements=placements), 1 / values.device_mesh.size())  # type: ignore[attr-defined]


def gather(values: Tensor, ranks: Ranks) -> Tensor:
    """Gather (M, ...) of each rank to (W M, ...) on all ranks, each of which has a part of the gradient."""
    result: Tensor = _Gather.apply(values, ranks)
    return result


def add(part: Tensor, ranks: Ranks) -> Tensor:
    """Return the sum of the parts of all ranks; the gradient of a part is that of the sum."""
    result: Tensor = _Add.apply(part, ranks)
    return result


def share(values: Tensor, ranks: Ranks) -> Tensor:
    """Return a tensor that is equal on all ranks, such as a scale; its gradient is the sum of the parts."""
    result: Tensor = _Share.apply(values, ranks)
    return result


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return values unchanged and multiply their gradient by a factor."""
    result: Tensor = _ScaleGradient.apply(values, factor)
    return result


def cross_entropy(logits: Tensor, labels: Tensor, ranks: Ranks) -> Tensor:
    """Return the mean cross-entropy, a scalar, of logits whose columns are divided among ranks.

    Maxima and sums are float32 or wider.

    Args:
        logits: (M, c + 1), the columns of this rank and a spare one that is ignored; c may differ and be 0.
        labels: (M,), columns of this rank; c if the true column is on another rank.
        ranks: The ranks that hold the columns.
    """
    result: Tensor = _CrossEntropy.apply(logits, labels, ranks)
    return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(values).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.reduce_scatter(grad.reshape(ctx.ranks.world, -1, *grad.shape[1:])), None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks) -> Tensor:
        return ranks.add(part.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.add(grad.clone()), None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ranks: Ranks) -> Tensor:
        wide, is_local = logits.to(wide_dtype(logits)), labels < logits.shape[1] - 1
        target = wide.gather(1, labels[:, None])[:, 0].where(is_local, 0)
        top = wide[:, :-1].amax(1) if wide.shape[1] > 1 else torch.full_like(target, -torch.inf)
        top = ranks.maximum(top)
        power = (wide - top[:, None]).exp_()
        power[:, -1] = 0
        total, target = ranks.add(torch.stack([power.sum(1), target]))
        ctx.save_for_backward(power, total, labels, is_local)
        ctx.dtype = logits.dtype
        mean: Tensor = (total.log() + top - target).mean()
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        power, total, labels, is_local = ctx.saved_tensors
        scale = grad / len(labels)
        result = power * (scale / total)[:, None]
        result.scatter_add_(1, labels[:, None], torch.where(is_local, -scale, 0)[:, None])
        return result.to(ctx.dtype), None, None
