"""The class energy of classifiers that lie in shards over several ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.class_energy import class_energy
from sfplus.hypersphere.collectives import Ranks
from sfplus.hypersphere.energy import directions
from sfplus.hypersphere.riesz_kernel import Kernel

_PAIRS = {"cpu": 1 << 20, "cuda": 1 << 24}  # of classifiers at a time


def sharded_class_energy(
    shard: Tensor, labels: Tensor, first: int, classes: int, power: float, mode: str, ranks: Ranks
) -> Tensor:
    """`class_energy`, the same on all ranks, by `ShardedHead.class_energy`, which looks at its arguments.

    The batch's classifiers are gathered, and each rank takes them against its own, in blocks. Value and gradient are
    found in one pass over the pairs.

    Args:
        shard: (c + 1, d), the classes `first` and on, and a spare row that takes no part.
        labels: (B,) of the global batch.
        first: of this rank's classes.
        classes: C, on all ranks.
        power: s.
        mode: paper or batch.
        ranks: of the shards.
    """
    energy: Tensor = _ShardedClassEnergy.apply(shard, labels, first, classes, power, mode, ranks)
    return energy


class _ShardedClassEnergy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shard: Tensor, labels: Tensor, first: int, classes: int, power: float, mode: str, ranks: Ranks
    ) -> Tensor:
        anchors, counts = torch.unique(labels, return_counts=True)
        place = anchors - first
        here = (place >= 0) & (place < len(shard) - 1)
        vectors = shard.new_zeros(len(anchors), shard.shape[1])
        vectors[here] = shard[place[here]]
        ranks.add(vectors)
        gradient = torch.zeros_like(shard)
        with torch.enable_grad():
            vectors.requires_grad_()
            if mode == "batch":  # few pairs: every rank computes all of them
                padded = torch.cat([vectors, torch.zeros_like(vectors[:1])])  # of one person too there is an energy
                energy = class_energy(padded, torch.arange(len(anchors), device=shard.device), power, "batch")
                (by_vectors,) = torch.autograd.grad(energy, vectors)
            else:
                unit = directions(vectors)
                weights = counts.to(unit.dtype) / (len(labels) * (classes - 1))
                energy, by_unit = _against_shard(unit.detach(), weights, place, shard, Kernel(float(power)), gradient)
                ranks.add(energy)
                (by_vectors,) = torch.autograd.grad(unit, vectors, ranks.add(by_unit))
        ctx.save_for_backward(gradient.index_add_(0, place[here], by_vectors[here]))
        return energy.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad.to(gradient.dtype), *[None] * 6)


def _against_shard(
    anchors: Tensor, weights: Tensor, place: Tensor, shard: Tensor, kernel: Kernel, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Energy of directions (U, d), times weights (U,), against all rows of a shard but that at their place (U,).

    Returns:
        It and its gradient by the directions; that by the rows is written to `gradient`.
    """
    total, by_anchors = torch.zeros((), dtype=torch.float64, device=shard.device), torch.zeros_like(anchors)
    step = max(1, _PAIRS.get(shard.device.type, 1 << 20) // len(anchors))
    for start in range(0, len(shard) - 1, step):
        stop = min(start + step, len(shard) - 1)
        ours, theirs = anchors.detach().requires_grad_(), shard[start:stop].detach().requires_grad_()
        own = place[:, None] == torch.arange(start, stop, device=shard.device)
        energy = (kernel.value(ours @ directions(theirs).T).masked_fill(own, 0).sum(1) * weights).sum()
        by_ours, gradient[start:stop] = torch.autograd.grad(energy, (ours, theirs))
        by_anchors += by_ours
        total += energy.detach()
    return total.to(anchors.dtype), by_anchors
