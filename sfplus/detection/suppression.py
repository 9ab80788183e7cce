"""Non-maximum suppression of the boxes of many photos at once."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import batched_nms

_BLOCK = 512  # boxes that `suppress_nested` compares at a time


def suppress(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float, matlab: bool = False
) -> torch.Tensor:
    """Non-maximum suppression within groups, by intersection over union.

    In float64 on a grid of 2^-20 pixels the offsets that separate the groups change nothing, not even the last bit.
    Scores are often equal (1 to the last bit); then the first candidate wins, as in facenet-pytorch. With `matlab` the
    last one wins, and sides are counted inclusively, as in nms.m ('Union').

    Returns:
        int64 indices that are kept: group by group, highest score first.
    """
    if not len(boxes):
        return groups
    if matlab:
        inclusive = boxes + boxes.new_tensor([0, 0, 1, 1])
        return len(boxes) - 1 - suppress(inclusive.flip(0), scores.flip(0), groups.flip(0), threshold)
    exact = (boxes.double() * 2**20).round() / 2**20
    _, numbers = torch.unique(groups, return_inverse=True)
    kept: torch.Tensor = batched_nms(exact - exact.min(), scores.double(), numbers, threshold).sort().values
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return kept[groups[kept].argsort(stable=True)]


def suppress_nested(boxes: torch.Tensor, scores: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Non-maximum suppression within photos, by intersection over the smaller box, threshold 0.7 (nms.m, 'Min').

    Returns:
        int64 indices that are kept: photo by photo, highest score first; of equal scores the last one, as in nms.m.
    """
    order = scores.flip(0).argsort(descending=True, stable=True)
    order = len(order) - 1 - order
    order = order[owners[order].argsort(stable=True)]
    sorted_boxes, sorted_owners = boxes[order].double().cpu().numpy(), owners[order].cpu().numpy()
    starts = np.flatnonzero(np.diff(sorted_owners, prepend=-1, append=-1))
    kept = [_not_nested(sorted_boxes[a:b]) for a, b in itertools.pairwise(starts)]
    return order[torch.from_numpy(np.concatenate([np.empty(0, bool), *kept])).to(order.device)]


def _not_nested(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which boxes of one photo, best first, greedy suppression keeps; in blocks, so that crowds fit into memory."""
    keep = np.ones(len(boxes), bool)
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        free = ~_covers(boxes[:start][keep[:start]], block).any(axis=0, keepdims=True)
        within, now = np.triu(_covers(block, block), 1), free
        while not np.array_equal(now, after := free & ~(within & now.T).any(axis=0, keepdims=True)):
            now = after
        keep[start : start + _BLOCK] = np.ravel(now)
    return keep


def _covers(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Pairs (N, M) of boxes that share more than 0.7 of the smaller one; sides are counted inclusively."""
    first = np.maximum(some[:, None, :2], others[None, :, :2])
    common = (np.minimum(some[:, None, 2:], others[None, :, 2:]) + 1 - first).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (some, others)]
    return np.asarray(common > 0.7 * np.minimum(areas[0][:, None], areas[1]))
