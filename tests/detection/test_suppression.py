"""Non-maximum suppression against torchvision and a transcription of nms.m."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms as torchvision_nms

from sfplus.detection.suppression import suppress, suppress_nested


def test_groups_are_suppressed_separately_and_sorted_by_score() -> None:
    boxes = torch.tensor([[-30.0, -30, 0, 0], [0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores = torch.tensor([0.3, 0.8, 0.9, 0.7, 0.1])
    groups = torch.tensor([0, 0, 0, 1, 2])
    assert suppress(boxes, scores, groups, 0.5).tolist() == [2, 0, 3, 4]
    assert suppress(boxes, torch.ones(5), groups, 0.5).tolist() == [0, 1, 3, 4]
    assert suppress(boxes[:0], scores[:0], groups[:0], 0.5).tolist() == []
    assert suppress(boxes[:0], scores[:0], groups[:0], 0.5, batched=True).tolist() == []


@pytest.mark.parametrize("pairs", [7 * 7, 30 * 30, 1 << 21])
@pytest.mark.parametrize("matlab", [False, True])
def test_batched_suppression_equals_suppression_group_by_group(
    monkeypatch: pytest.MonkeyPatch, matlab: bool, pairs: int
) -> None:
    """The operations for a GPU give the result of torchvision's nms for each group."""
    monkeypatch.setattr("sfplus.detection.suppression._PAIRS", pairs)
    rng = np.random.default_rng(pairs)
    first = rng.integers(0, 60, (500, 2))
    boxes = torch.from_numpy(np.hstack([first, first + rng.integers(10, 40, (500, 2))]).astype(np.float32))
    scores = torch.from_numpy(rng.integers(0, 50, 500).astype(np.float32) / 50)
    groups = torch.from_numpy(rng.choice([0, 3, 4, 9], 500, p=[0.7, 0.2, 0.09, 0.01]))
    one_by_one, batched = (
        suppress(boxes, scores, groups, 0.3, matlab=matlab, batched=batched) for batched in (False, True)
    )
    assert one_by_one.tolist() == batched.tolist() and 20 < len(one_by_one) < 400
    if not matlab:
        expected = torchvision_nms(boxes.double(), scores.double(), groups, 0.3)
        assert sorted(one_by_one.tolist()) == sorted(expected.tolist())


def slow_minimum_suppression(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Suppress box by box as nms.m with type 'Min' does; the last of equal scores comes first."""
    remaining, kept = list(np.argsort(scores, kind="stable")), []
    while remaining:
        best = remaining.pop()
        kept.append(int(best))
        survivors = []
        for candidate in remaining:
            w = min(boxes[best, 2], boxes[candidate, 2]) - max(boxes[best, 0], boxes[candidate, 0]) + 1
            h = min(boxes[best, 3], boxes[candidate, 3]) - max(boxes[best, 1], boxes[candidate, 1]) + 1
            areas = [(boxes[i, 2] - boxes[i, 0] + 1) * (boxes[i, 3] - boxes[i, 1] + 1) for i in (best, candidate)]
            if max(w, 0) * max(h, 0) / min(areas) <= 0.7:
                survivors.append(candidate)
        remaining = survivors
    return kept


@pytest.mark.parametrize("pairs", [7 * 7, 30 * 30, 1 << 21])
@pytest.mark.parametrize("seed", range(5))
def test_nested_boxes_are_suppressed_in_each_photo_as_by_nms_m(
    monkeypatch: pytest.MonkeyPatch, seed: int, pairs: int
) -> None:
    monkeypatch.setattr("sfplus.detection.suppression._PAIRS", pairs)
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 60, (90, 2))
    boxes = np.hstack([first, first + rng.uniform(20, 60, (90, 2))]).astype(np.float32)
    scores = rng.integers(0, 30, 90).astype(np.float32) / 30  # many are equal
    photo_ids = np.sort(rng.integers(0, 4, 90))
    expected = [
        int(np.flatnonzero(photo_ids == photo)[k])
        for photo in range(4)
        for k in slow_minimum_suppression(boxes[photo_ids == photo].astype(float), scores[photo_ids == photo])
    ]
    kept = suppress_nested(*map(torch.from_numpy, (boxes, scores, photo_ids)))
    assert kept.tolist() == expected
    assert 8 < len(expected) < 90


@pytest.mark.gpu
def test_suppression_of_a_crowd_needs_little_memory_of_a_gpu() -> None:
    boxes = torch.rand(9000, 4, device="cuda") * 50
    boxes[:, 2:] += 50
    torch.cuda.reset_peak_memory_stats()
    suppress_nested(boxes, boxes[:, 0], torch.zeros(9000, dtype=torch.int64, device="cuda"))
    assert torch.cuda.max_memory_allocated() < 2 << 30


def random_boxes(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 60, (300, 2))
    boxes = torch.from_numpy(np.hstack([first, first + rng.integers(10, 40, (300, 2))]).astype(np.float32))
    scores = torch.from_numpy(rng.integers(0, 10, 300).astype(np.float32) / 10)
    return boxes, scores, torch.from_numpy(rng.integers(0, 4, 300))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("matlab", [False, True])
def test_boxes_with_low_scores_take_no_part(batched: bool, matlab: bool) -> None:
    """Nor do those whose score is equal to the limit or is no number."""
    boxes, scores, groups = random_boxes(0)
    scores[::50] = torch.nan
    high = (scores > 0.5).nonzero()[:, 0]
    kept = suppress(boxes, scores, groups, 0.3, above=0.5, matlab=matlab, batched=batched)
    expected = high[suppress(boxes[high], scores[high], groups[high], 0.3, matlab=matlab)]
    assert kept.tolist() == expected.tolist() and 20 < len(kept) < len(high)
    nested = suppress_nested(boxes, scores, groups, above=0.5, batched=batched)
    assert nested.tolist() == high[suppress_nested(boxes[high], scores[high], groups[high])].tolist()
    assert not len(suppress(boxes, scores, groups, 0.3, above=1, batched=batched))


@pytest.mark.parametrize("batched", [False, True])
def test_boxes_that_may_not_be_kept_suppress_others(batched: bool) -> None:
    boxes, scores, groups = random_boxes(1)
    allowed = torch.from_numpy(np.random.default_rng(2).random(300) < 0.5)
    every = suppress(boxes, scores, groups, 0.3)
    kept = suppress(boxes, scores, groups, 0.3, allowed=allowed, batched=batched)
    assert kept.tolist() == [index for index in every.tolist() if allowed[index]] and len(kept) < len(every)


@pytest.mark.parametrize("length", [5, 15, 40, 200])
def test_long_chains_of_boxes_need_more_rounds(length: int) -> None:
    """Each box overlaps the next one only: every other one is kept, which takes a round for each box."""
    first = torch.arange(length, dtype=torch.float32) * 5
    boxes = torch.stack([first, 0 * first, first + 9, 0 * first + 9], 1)
    scores, groups = torch.linspace(1, 0.5, length), torch.zeros(length, dtype=torch.long)
    one_by_one, batched = (suppress(boxes, scores, groups, 0.2, batched=batched) for batched in (False, True))
    assert one_by_one.tolist() == batched.tolist() == list(range(0, length, 2))
