"""The classes of a step of sampled training, and a head that uses only their classifiers; see `ShardedHead`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.heads.base import Head


def draw_classes(present: Tensor, count: int, rate: float, seed: int) -> Tensor:
    """Draw classes: all that are present, random others up to a share of all, and class `count`, a spare one.

    The program waits for a GPU only if the present classes may be more than that share.

    Args:
        present: (B,) int64 in [0, count].
        count: Number of classes.
        rate: Share of the classes, in (0, 1].
        seed: Seed of the random others.

    Returns:
        The classes (S,) int64, in rising order.
    """
    generator = torch.Generator(present.device).manual_seed(seed)
    order = torch.rand(count + 1, device=present.device, generator=generator)
    order.index_fill_(0, present, 2)  # an assignment of a number would wait for a GPU
    order[count:].fill_(2)
    size = math.ceil(rate * count) + 1
    if size <= min(len(present), count):
        size = max(size, int((order == 2).sum()))
    return order.topk(size).indices.sort().values


def select_rows(weight: Tensor, rows: Tensor) -> Tensor:
    """Select distinct rows (S,) of a weight (C, ...), with a gradient of full size."""
    selected: Tensor = _Rows.apply(weight, rows)
    return selected


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.shape = weight.shape
        ctx.save_for_backward(rows)
        return weight.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, rows, grad), None


def logits_with(head: Head, parameters: Mapping[str, Tensor], features: Tensor, labels: Tensor) -> Tensor:
    """Return the logits with margin of a head that uses these parameters instead of its own."""
    values = {f"head.{name}": value for name, value in parameters.items()}
    logits: Tensor = torch.func.functional_call(_Logits(head), values, (features, labels))
    return logits


class _Logits(nn.Module):
    """The method `logits` of a head as a module, for `functional_call`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.head.logits(features, labels)
