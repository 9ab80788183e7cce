"""The class energy of classifiers that are divided among several ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.class_energy import between, distinct
from sfplus.hypersphere.collectives import Ranks
from sfplus.hypersphere.energy import directions
from sfplus.hypersphere.riesz_kernel import Kernel

_PAIRS = {"cpu": 1 << 20, "cuda": 1 << 24}  # pairs of classifiers in a block


def sharded_class_energy(
    shard: Tensor, labels: Tensor, first: int, classes: int, power: float, mode: str, ranks: Ranks
) -> Tensor:
    """Return `class_energy`, equal on all ranks, for `ShardedHead.class_energy`, which checks the arguments.

    The batch's classifiers are gathered, and each rank compares them with its shard, in blocks. Value and gradient
    are computed in one pass over the pairs.

    Args:
        shard: (c + 1, d), the classifiers of the classes from `first`, and a spare row that is ignored.
        labels: Labels (B,) of the global batch.
        first: The first class of this rank.
        classes: Number C of classes on all ranks.
        power: Power s.
        mode: paper or batch.
        ranks: The ranks that hold the shards.
    """
    energy: Tensor = _ShardedClassEnergy.apply(shard, labels, first, classes, power, mode, ranks)
    return energy


class _ShardedClassEnergy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shard: Tensor, labels: Tensor, first: int, classes: int, power: float, mode: str, ranks: Ranks
    ) -> Tensor:
        anchors, counts = distinct(labels, classes)
        spare = len(shard) - 1
        rows = torch.where((anchors < first) | (anchors >= first + spare), spare, anchors - first)
        is_local = (rows < spare)[:, None]
        vectors = ranks.add(shard.index_select(0, rows).masked_fill(~is_local, 0))
        gradient = torch.zeros_like(shard)
        with torch.enable_grad():
            vectors.requires_grad_()
            if mode == "batch":  # few pairs: every rank computes all of them
                energy = between(directions(vectors), counts, Kernel(float(power), "geodesic"))
                (by_vectors,) = torch.autograd.grad(energy, vectors)
            else:
                unit = directions(vectors)
                weights = counts.to(unit.dtype) / (len(labels) * (classes - 1))
                energy, by_unit = _against_shard(unit.detach(), weights, rows, shard, Kernel(float(power)), gradient)
                ranks.add(energy)
                (by_vectors,) = torch.autograd.grad(unit, vectors, ranks.add(by_unit))
        ctx.save_for_backward(gradient.index_add_(0, rows, by_vectors.masked_fill(~is_local, 0)))
        return energy.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad.to(gradient.dtype), *[None] * 6)


def _against_shard(
    anchors: Tensor, weights: Tensor, rows: Tensor, shard: Tensor, kernel: Kernel, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the energy of directions (U, d), times weights (U,), with all rows of a shard but their own rows (U,).

    Returns:
        The energy and its gradient for the directions; the gradient for the rows is written to `gradient`.
    """
    total, by_anchors = torch.zeros((), dtype=torch.float64, device=shard.device), torch.zeros_like(anchors)
    step = max(1, _PAIRS.get(shard.device.type, 1 << 20) // len(anchors))
    for start in range(0, len(shard) - 1, step):
        stop = min(start + step, len(shard) - 1)
        left, right = anchors.detach().requires_grad_(), shard[start:stop].detach().requires_grad_()
        same_class = rows[:, None] == torch.arange(start, stop, device=shard.device)
        energy = (kernel.value(left @ directions(right).T).masked_fill(same_class, 0).sum(1) * weights).sum()
        by_left, gradient[start:stop] = torch.autograd.grad(energy, (left, right))
        by_anchors += by_left
        total += energy.detach()
    return total.to(anchors.dtype), by_anchors
