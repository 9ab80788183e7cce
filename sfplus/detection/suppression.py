"""Greedy non-maximum suppression of the boxes of many photos at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import nms

_PAIRS = 1 << 18  # of boxes that are compared at a time, 64 bytes each; 64 times as many on a GPU
Overlap = Callable[[Tensor, Tensor], Tensor]


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, matlab: bool = False, batched: bool = False
) -> Tensor:
    """Suppress boxes within groups, by intersection over union.

    Scores are often equal to the last bit (1.0). Then the first candidate wins, as in facenet-pytorch.

    Args:
        boxes: float (N, 4), x1 y1 x2 y2.
        scores: float (N,).
        groups: int64 (N,), the group of each box.
        threshold: boxes that overlap a better one by more are dropped.
        matlab: count sides inclusively, and let the last of equal scores win, as nms.m ('Union') does.
        batched: compare many groups in one operation, which suits a GPU, instead of one after the other.

    Returns:
        int64 indices of the kept boxes, group by group, highest score first.
    """
    order = _best_first(scores, groups, matlab)
    sorted_boxes = boxes[order].double() + boxes.new_tensor([0, 0, matlab, matlab], dtype=torch.float64)
    if batched:
        return order[_greedy(sorted_boxes, groups[order], partial(_exceeds_union, threshold=threshold))]
    descending = -torch.arange(len(order), dtype=torch.float64, device=order.device)
    ranges = itertools.pairwise(_starts(groups[order]))
    return order[torch.cat([order[:0], *(a + nms(sorted_boxes[a:b], descending[a:b], threshold) for a, b in ranges)])]


def suppress_nested(boxes: Tensor, scores: Tensor, photo_ids: Tensor) -> Tensor:
    """Suppress boxes within photos, by intersection over the smaller box, with threshold 0.7 (nms.m, 'Min').

    Returns:
        int64 indices of the kept boxes, photo by photo, highest score first; the last of equal scores wins.
    """
    order = _best_first(scores, photo_ids, last=True)
    return order[_greedy(boxes[order].double(), photo_ids[order], _exceeds_smaller_box)]


def _best_first(scores: Tensor, groups: Tensor, last: bool) -> Tensor:
    """Sort by group, then by descending score; the first or the last of equal scores comes first."""
    order = (scores.flip(0) if last else scores).argsort(descending=True, stable=True)
    order = len(order) - 1 - order if last else order
    return order[groups[order].argsort(stable=True)]


def _starts(groups: Tensor) -> list[int]:
    """Return the start of each of the sorted groups, and the end, with one transfer from the device."""
    _, counts = torch.unique_consecutive(groups, return_counts=True)
    return [0, *itertools.accumulate(counts.tolist())]


def _greedy(boxes: Tensor, groups: Tensor, overlap: Overlap) -> Tensor:
    """Return the indices of the kept boxes; the input is sorted by group, best first in each."""
    limit, starts = _PAIRS * (64 if boxes.is_cuda else 1), torch.tensor(_starts(groups))
    first, size = starts[:-1], starts.diff()
    boxes, keep = torch.cat([boxes, boxes.new_zeros(1, 4)]), groups.new_zeros(len(boxes) + 1, dtype=torch.bool)
    for batch in _batches_of_groups(size.tolist(), limit):
        offsets = torch.arange(int(size[batch[0]]))
        exists = offsets < size[batch, None]
        rows = torch.where(exists, first[batch, None] + offsets, len(boxes) - 1).to(boxes.device)
        keep[rows] = _kept(boxes[rows], exists.to(boxes.device), overlap, math.isqrt(limit))
    return keep[:-1].nonzero()[:, 0]


def _batches_of_groups(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield batches of groups of similar size, the largest first; a group beyond the limit is a batch of its own."""
    batch: list[int] = []
    for group in sorted(range(len(sizes)), key=lambda group: -sizes[group]):
        if batch and (len(batch) + 1) * sizes[batch[0]] ** 2 > limit:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _kept(boxes: Tensor, exists: Tensor, overlap: Overlap, side: int) -> Tensor:
    """Mark the boxes that no better kept box overlaps.

    At most `side` boxes of a group are compared with one another at a time, so that crowds fit into memory.

    Args:
        boxes: (G, M, 4), best first.
        exists: bool (G, M), False for padding.
        overlap: marks the pairs that overlap.
        side: boxes per block.

    Returns:
        bool (G, M).
    """
    keep = torch.zeros_like(exists)
    for start in range(0, exists.shape[1], side):
        block = boxes[:, start : start + side]
        candidates = exists[:, start : start + side].clone()
        for earlier in range(0, start, side):
            overlaps = overlap(boxes[:, earlier : earlier + side], block) & keep[:, earlier : earlier + side, None]
            candidates &= ~overlaps.any(1)
        better = overlap(block, block).triu(1)
        current = candidates
        # Starting from all candidates, each round settles more boxes from the best down; a few rounds are enough.
        while not torch.equal(current, after := candidates & ~(better & current[:, :, None]).any(1)):
            current = after
        keep[:, start : start + side] = current
    return keep


def _exceeds_union(left: Tensor, right: Tensor, threshold: float) -> Tensor:
    """Mark the pairs (G, N, M) of boxes whose intersection over union exceeds a threshold."""
    intersection = _intersection(left, right, 0)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(2) for boxes in (left, right)]
    return intersection / (areas[0][:, :, None] + areas[1][:, None] - intersection) > threshold


def _exceeds_smaller_box(left: Tensor, right: Tensor) -> Tensor:
    """Mark the pairs (G, N, M) of boxes that share more than 0.7 of the smaller one; sides are counted inclusively."""
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(2) for boxes in (left, right)]
    return _intersection(left, right, 1) > 0.7 * torch.minimum(areas[0][:, :, None], areas[1][:, None])


def _intersection(left: Tensor, right: Tensor, extra: int) -> Tensor:
    """Return the areas of intersection (G, N, M); `extra` is added to the sides."""
    first = torch.maximum(left[:, :, None, :2], right[:, None, :, :2])
    last = torch.minimum(left[:, :, None, 2:], right[:, None, :, 2:])
    return (last - first + extra).clamp(min=0).prod(3)
