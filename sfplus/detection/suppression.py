"""Greedy non-maximum suppression of the boxes of many photos at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfplus.detection.torchvision_nms import nms

_PAIRS = 1 << 18  # of boxes that are compared at a time, 64 bytes each; 64 times as many on a GPU
_ROUNDS = 16  # of comparisons before the host waits for a GPU
_DROPPED = 1 << 62  # the group of boxes with a low score, after all others
Overlap = Callable[[Tensor, Tensor], Tensor]


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    threshold: float,
    *,
    above: float = -math.inf,
    allowed: Tensor | None = None,
    matlab: bool = False,
    batched: bool = False,
) -> Tensor:
    """Suppress boxes within groups, by intersection over union.

    Scores are often equal to the last bit (1.0). Then the first candidate wins, as in facenet-pytorch.

    Args:
        boxes: float (N, 4), x1 y1 x2 y2.
        scores: float (N,).
        groups: int64 (N,), the group of each box.
        threshold: boxes that overlap a better one by more are dropped.
        above: boxes with this score or less neither are kept nor suppress others.
        allowed: bool (N,), boxes that may be kept; the others suppress, too.
        matlab: count sides inclusively, and let the last of equal scores win, as nms.m ('Union') does.
        batched: compare many groups in one operation, which suits a GPU, instead of one after the other.

    Returns:
        int64 indices of the kept boxes, group by group, highest score first.
    """
    order, starts = _best_first(scores, groups, above, matlab)
    sorted_boxes = boxes[order].double()
    sorted_boxes[:, 2:] += float(matlab)
    if batched:
        mask = None if allowed is None else allowed[order]
        return order[_greedy(sorted_boxes, starts, partial(_exceeds_union, threshold=threshold), mask, _ROUNDS)]
    descending = -torch.arange(len(order), dtype=torch.float64, device=order.device)
    kept = [a + nms(sorted_boxes[a:b], descending[a:b], threshold) for a, b in itertools.pairwise(starts.tolist())]
    order = order[torch.cat([order[:0], *kept])]
    return order if allowed is None else order[allowed[order]]


def suppress_nested(
    boxes: Tensor, scores: Tensor, photo_ids: Tensor, *, above: float = -math.inf, batched: bool = False
) -> Tensor:
    """Suppress boxes within photos, by intersection over the smaller box, with threshold 0.7 (nms.m, 'Min').

    Args:
        boxes: float (N, 4), x1 y1 x2 y2.
        scores: float (N,).
        photo_ids: int64 (N,), the photo of each box.
        above: boxes with this score or less neither are kept nor suppress others.
        batched: do not wait for a GPU after each comparison.

    Returns:
        int64 indices of the kept boxes, photo by photo, highest score first; the last of equal scores wins.
    """
    order, starts = _best_first(scores, photo_ids, above, last=True)
    rounds = _ROUNDS if batched else None
    return order[_greedy(boxes[order].double(), starts, _exceeds_smaller_box, None, rounds)]


def _best_first(scores: Tensor, groups: Tensor, above: float, last: bool) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Sort the boxes above a score by group, then by descending score.

    Args:
        scores: (N,).
        groups: (N,).
        above: the score.
        last: the last of equal scores comes first, instead of the first.

    Returns:
        The indices of these boxes, and the start of each group among them, and the end, on the host: a device waits
        here.
    """
    order = (scores.flip(0) if last else scores).argsort(descending=True, stable=True)
    order = len(order) - 1 - order if last else order
    groups = torch.where(scores > above, groups, _DROPPED)[order]
    by_group = groups.argsort(stable=True)
    sorted_groups = groups[by_group].cpu().numpy()
    count = int(np.searchsorted(sorted_groups, _DROPPED))
    changes = np.flatnonzero(np.diff(sorted_groups[:count], prepend=-1))
    return order[by_group[:count]], np.append(changes, count)


def _greedy(
    boxes: Tensor, starts: npt.NDArray[np.int64], overlap: Overlap, allowed: Tensor | None, rounds: int | None
) -> Tensor:
    """Return the indices of the kept boxes.

    Args:
        boxes: (N, 4), sorted by group, best first in each.
        starts: of the groups, and the end.
        overlap: marks the pairs that overlap.
        allowed: bool (N,), boxes that may be kept; None: all.
        rounds: of comparisons before the host waits for the device, eight times as many each time; None: wait for each.
    """
    while True:
        keep, is_final = _compare(boxes, starts, overlap, rounds)
        keep = keep if allowed is None else keep & allowed
        count, final = torch.stack([keep.sum(), is_final.long()]).tolist()
        if final:
            return torch.nonzero_static(keep, size=count)[:, 0]
        rounds = 8 * rounds if rounds else None


def _compare(
    boxes: Tensor, starts: npt.NDArray[np.int64], overlap: Overlap, rounds: int | None
) -> tuple[Tensor, Tensor]:
    """Mark the kept boxes (N,), and return whether so many rounds were enough, bool (), without waiting for it."""
    limit, device = _PAIRS * (64 if boxes.is_cuda else 1), boxes.device
    sizes = np.diff(starts)
    by_size = np.argsort(-sizes, kind="stable")
    sizes = sizes[by_size]
    tables = torch.from_numpy(np.stack([starts[:-1][by_size], sizes])).to(device, non_blocking=True)
    boxes = torch.cat([boxes, torch.zeros(1, 4, dtype=boxes.dtype, device=device)])
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=device)
    is_final = torch.ones((), dtype=torch.bool, device=device)
    for start, end in _batches_of_groups(sizes, limit):
        first, size = tables[:, start:end, None]
        offsets = torch.arange(int(sizes[start]), device=device)
        exists = offsets < size
        rows = torch.where(exists, first + offsets, len(boxes) - 1)
        keep[rows], settled = _kept(boxes[rows], exists, overlap, math.isqrt(limit), rounds)
        is_final &= settled
    return keep[:-1], is_final


def _batches_of_groups(sizes: npt.NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of groups, whose sizes descend; a group beyond the limit is a batch of its own."""
    start = 0
    while start < len(sizes):
        count = max(1, limit // int(sizes[start]) ** 2)
        yield start, min(start + count, len(sizes))
        start += count


def _kept(boxes: Tensor, exists: Tensor, overlap: Overlap, side: int, rounds: int | None) -> tuple[Tensor, Tensor]:
    """Mark the boxes that no better kept box overlaps.

    At most `side` boxes of a group are compared with one another at a time, so that crowds fit into memory.

    Args:
        boxes: (G, M, 4), best first.
        exists: bool (G, M), False for padding.
        overlap: marks the pairs that overlap.
        side: boxes per block.
        rounds: of comparisons; None: until nothing changes.

    Returns:
        bool (G, M), and whether the last rounds changed nothing, bool ().
    """
    keep = torch.zeros_like(exists)
    settled = torch.ones((), dtype=torch.bool, device=exists.device)
    for start in range(0, exists.shape[1], side):
        block = boxes[:, start : start + side]
        candidates = exists[:, start : start + side].clone()
        for earlier in range(0, start, side):
            overlaps = overlap(boxes[:, earlier : earlier + side], block) & keep[:, earlier : earlier + side, None]
            candidates &= ~overlaps.any(1)
        better = overlap(block, block).triu(1)
        before, current = candidates, candidates
        # Starting from all candidates, each round settles more boxes from the best down; a few rounds are enough.
        for _ in itertools.count() if rounds is None else range(rounds):
            before, current = current, candidates & ~(better & current[:, :, None]).any(1)
            if rounds is None and torch.equal(before, current):
                break
        settled &= (before == current).all()
        keep[:, start : start + side] = current
    return keep, settled


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
