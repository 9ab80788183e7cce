"""Greedy non-maximum suppression of the boxes of many photos at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import nms

_PAIRS = 1 << 21  # of boxes that are compared at a time, 64 bytes each; 8 times as many on a GPU
Overlap = Callable[[Tensor, Tensor], Tensor]


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, matlab: bool = False, together: bool = False
) -> Tensor:
    """Suppression within groups, by intersection over union.

    Scores are often equal (1 to the last bit); then the first candidate wins, as in facenet-pytorch. With `matlab` the
    last one wins, and sides are counted inclusively, as in nms.m ('Union'). `together` takes many groups in one
    operation, which suits a GPU, else they take their turns, which suits a CPU.

    Returns:
        int64 indices that are kept: group by group, highest score first.
    """
    order = _best_first(scores, groups, matlab)
    sorted_boxes = boxes[order].double() + boxes.new_tensor([0, 0, matlab, matlab], dtype=torch.float64)
    if together:
        return order[_greedy(sorted_boxes, groups[order], partial(_agree, threshold=threshold))]
    falling = -torch.arange(len(order), dtype=torch.float64, device=order.device)
    turns = itertools.pairwise(_starts(groups[order]))
    return order[torch.cat([order[:0], *(a + nms(sorted_boxes[a:b], falling[a:b], threshold) for a, b in turns)])]


def suppress_nested(boxes: Tensor, scores: Tensor, owners: Tensor) -> Tensor:
    """Suppression within photos, by intersection over the smaller box, threshold 0.7 (nms.m, 'Min').

    Returns:
        int64 indices that are kept: photo by photo, highest score first; of equal scores the last one, as in nms.m.
    """
    order = _best_first(scores, owners, last=True)
    return order[_greedy(boxes[order].double(), owners[order], _cover)]


def _best_first(scores: Tensor, groups: Tensor, last: bool) -> Tensor:
    """The order by group, then from the highest score; of equal scores the first, or the last, comes first."""
    order = (scores.flip(0) if last else scores).argsort(descending=True, stable=True)
    order = len(order) - 1 - order if last else order
    return order[groups[order].argsort(stable=True)]


def _starts(groups: Tensor) -> list[int]:
    """Where sorted groups begin, and the end; fetched from the device in one go."""
    _, counts = torch.unique_consecutive(groups, return_counts=True)
    return [0, *itertools.accumulate(counts.tolist())]


def _greedy(boxes: Tensor, groups: Tensor, overlap: Overlap) -> Tensor:
    """The indices of boxes that stay; sorted by group, best first in each."""
    limit, starts = _PAIRS * (8 if boxes.is_cuda else 1), torch.tensor(_starts(groups))
    first, size = starts[:-1], starts.diff()
    boxes, keep = torch.cat([boxes, boxes.new_zeros(1, 4)]), groups.new_zeros(len(boxes) + 1, dtype=torch.bool)
    for some in _alike(size.tolist(), limit):
        places = torch.arange(int(size[some[0]]))
        exist = places < size[some, None]
        rows = torch.where(exist, first[some, None] + places, len(boxes) - 1).to(boxes.device)
        keep[rows] = _settle(boxes[rows], exist.to(boxes.device), overlap, math.isqrt(limit))
    return keep[:-1].nonzero()[:, 0]


def _alike(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Groups of like size to be compared side by side, the largest first; beyond the limit a group is alone."""
    some: list[int] = []
    for group in sorted(range(len(sizes)), key=lambda group: -sizes[group]):
        if some and (len(some) + 1) * sizes[some[0]] ** 2 > limit:
            yield some
            some = []
        some.append(group)
    if some:
        yield some


def _settle(boxes: Tensor, exist: Tensor, overlap: Overlap, side: int) -> Tensor:
    """Which boxes (G, M, 4) stay: those that exist and that no better one that stays overlaps; (G, M).

    At most `side` of a group are compared with one another at a time, so that crowds fit into memory.
    """
    keep = torch.zeros_like(exist)
    for start in range(0, exist.shape[1], side):
        block = boxes[:, start : start + side]
        free = exist[:, start : start + side].clone()
        for other in range(0, start, side):
            covered = overlap(boxes[:, other : other + side], block) & keep[:, other : other + side, None]
            free &= ~covered.any(1)
        better = overlap(block, block).triu(1)
        now = free
        # From the supposition that all stay, this settles from the best box down; a few rounds are enough.
        while not torch.equal(now, after := free & ~(better & now[:, :, None]).any(1)):
            now = after
        keep[:, start : start + side] = now
    return keep


def _agree(some: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Pairs (G, N, M) of boxes whose intersection is more than a part of their union."""
    common = _common(some, others, 0)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(2) for boxes in (some, others)]
    return common / (areas[0][:, :, None] + areas[1][:, None] - common) > threshold


def _cover(some: Tensor, others: Tensor) -> Tensor:
    """Pairs (G, N, M) of boxes that share more than 0.7 of the smaller one; sides are counted inclusively."""
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(2) for boxes in (some, others)]
    return _common(some, others, 1) > 0.7 * torch.minimum(areas[0][:, :, None], areas[1][:, None])


def _common(some: Tensor, others: Tensor, more: int) -> Tensor:
    """Areas of intersection; `more` is added to the sides."""
    first = torch.maximum(some[:, :, None, :2], others[:, None, :, :2])
    last = torch.minimum(some[:, :, None, 2:], others[:, None, :, 2:])
    return (last - first + more).clamp(min=0).prod(3)
