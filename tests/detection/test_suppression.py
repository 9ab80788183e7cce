"""Suppression against torchvision's and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms as torchvision_nms

from sfplus.detection.suppression import suppress, suppress_nested


def test_suppression_is_separate_for_each_group_and_sorts_by_score() -> None:
    boxes = torch.tensor([[-30.0, -30, 0, 0], [0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores = torch.tensor([0.3, 0.8, 0.9, 0.7, 0.1])
    groups = torch.tensor([0, 0, 0, 1, 2])
    assert suppress(boxes, scores, groups, 0.5).tolist() == [2, 0, 3, 4]
    assert suppress(boxes, torch.ones(5), groups, 0.5).tolist() == [0, 1, 3, 4]
    assert suppress(boxes[:0], scores[:0], groups[:0], 0.5).tolist() == []
    assert suppress(boxes[:0], scores[:0], groups[:0], 0.5, batched=True).tolist() == []


@pytest.mark.parametrize("pairs", [7 * 7, 30 * 30, 1 << 21])
@pytest.mark.parametrize("matlab", [False, True])
def test_suppression_side_by_side_is_suppression_in_turns(
    monkeypatch: pytest.MonkeyPatch, matlab: bool, pairs: int
) -> None:
    """The way of the GPU gives what torchvision's nms gives group by group."""
    monkeypatch.setattr("sfplus.detection.suppression._PAIRS", pairs)
    rng = np.random.default_rng(pairs)
    first = rng.integers(0, 60, (500, 2))
    boxes = torch.from_numpy(np.hstack([first, first + rng.integers(10, 40, (500, 2))]).astype(np.float32))
    scores = torch.from_numpy(rng.integers(0, 50, 500).astype(np.float32) / 50)
    groups = torch.from_numpy(rng.choice([0, 3, 4, 9], 500, p=[0.7, 0.2, 0.09, 0.01]))
    turns, together = (suppress(boxes, scores, groups, 0.3, matlab, together) for together in (False, True))
    assert turns.tolist() == together.tolist() and 20 < len(turns) < 400
    if not matlab:
        expected = torchvision_nms(boxes.double(), scores.double(), groups, 0.3)
        assert sorted(turns.tolist()) == sorted(expected.tolist())


def slow_minimum_suppression(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """nms.m with type 'Min', box by box: of equal scores the last one first."""
    left, kept = list(np.argsort(scores, kind="stable")), []
    while left:
        best = left.pop()
        kept.append(int(best))
        remain = []
        for other in left:
            w = min(boxes[best, 2], boxes[other, 2]) - max(boxes[best, 0], boxes[other, 0]) + 1
            h = min(boxes[best, 3], boxes[other, 3]) - max(boxes[best, 1], boxes[other, 1]) + 1
            areas = [(boxes[i, 2] - boxes[i, 0] + 1) * (boxes[i, 3] - boxes[i, 1] + 1) for i in (best, other)]
            if max(w, 0) * max(h, 0) / min(areas) <= 0.7:
                remain.append(other)
        left = remain
    return kept


@pytest.mark.parametrize("pairs", [7 * 7, 30 * 30, 1 << 21])
@pytest.mark.parametrize("seed", range(5))
def test_last_suppression_is_nms_by_the_smaller_box_in_every_photo(
    monkeypatch: pytest.MonkeyPatch, seed: int, pairs: int
) -> None:
    monkeypatch.setattr("sfplus.detection.suppression._PAIRS", pairs)
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 60, (90, 2))
    boxes = np.hstack([first, first + rng.uniform(20, 60, (90, 2))]).astype(np.float32)
    scores = rng.integers(0, 30, 90).astype(np.float32) / 30  # many are equal
    owners = np.sort(rng.integers(0, 4, 90))
    expected = [
        int(np.flatnonzero(owners == photo)[k])
        for photo in range(4)
        for k in slow_minimum_suppression(boxes[owners == photo].astype(float), scores[owners == photo])
    ]
    kept = suppress_nested(*map(torch.from_numpy, (boxes, scores, owners)))
    assert kept.tolist() == expected
    assert 8 < len(expected) < 90


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_suppression_of_a_crowd_takes_little_of_a_gpu() -> None:
    boxes = torch.rand(9000, 4, device="cuda") * 50
    boxes[:, 2:] += 50
    torch.cuda.reset_peak_memory_stats()
    suppress_nested(boxes, boxes[:, 0], torch.zeros(9000, dtype=torch.int64, device="cuda"))
    assert torch.cuda.max_memory_allocated() < 2 << 30
