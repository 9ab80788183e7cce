from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import draw_pairs, read_pairs, write_pairs
from sfplus.errors import DatasetError


def people(sizes: list[int]) -> list[str]:
    return [f"P {k}/P {k}_{n:04d}.jpg" for k, size in enumerate(sizes) for n in range(1, size + 1)]


def test_drawn_pairs_keep_the_rules_of_lfw(tmp_path: Path) -> None:
    photos = people([530, *range(1, 40), *[1] * 100])
    pairs = draw_pairs(photos, folds=5, per_fold=40, seed=3)
    assert np.array_equal(pairs.fold, np.repeat(np.arange(5), 80))
    assert np.array_equal(pairs.same, np.tile(np.repeat([True, False], 40), 5))
    person = np.array([[name.split("/")[0] for name in side] for side in (pairs.left, pairs.right)])
    assert np.array_equal(person[0] == person[1], pairs.same)
    assert len({frozenset(pair) for pair in zip(pairs.left, pairs.right, strict=True)}) == len(pairs)
    assert all(len(set(pair)) == 2 for pair in zip(pairs.left, pairs.right, strict=True))
    assert {f"{name}.jpg" for name in pairs.photos} <= set(photos)
    folds = [set(person[:, pairs.fold == k].ravel()) for k in range(5)]
    assert sum(map(len, folds)) == len(set().union(*folds))
    assert Counter(person[0])["P 0"] < 60, "one person with many photos takes over"
    write_pairs(tmp_path / "drawn.txt", pairs)
    assert read_pairs(tmp_path / "drawn.txt").right == pairs.right


def test_draw_depends_on_photos_and_seed_only() -> None:
    photos = people([5] * 12)
    first, again = draw_pairs(photos, 3, 7, seed=1), draw_pairs(photos[::-1], 3, 7, seed=1)
    reseeded = draw_pairs(photos, 3, 7, seed=2)
    assert (first.left, first.right) == (again.left, again.right)
    assert (first.left, first.right) != (reseeded.left, reseeded.right)


def test_all_possible_pairs_can_be_drawn() -> None:
    pairs = draw_pairs(people([3, 3, 3, 3]), folds=2, per_fold=6, seed=0)
    assert pairs.same.sum() == 12
    with pytest.raises(DatasetError, match="photos for only 6 of 7 pairs of the same person"):
        draw_pairs(people([3, 3, 3, 3]), folds=2, per_fold=7, seed=0)


@pytest.mark.parametrize(
    ("photos", "words"),
    [
        ([], "0 of 2 pairs of the same person"),
        (people([9, 9]), "0 of 2 pairs of different people"),
        (people([1] * 20), "0 of 2 pairs of the same person"),
        (["photo.jpg", *people([9] * 9)], "not in a person's folder"),
        (["P 1/P 1_0001.png", *people([9] * 9)], "differ only in their extension"),
    ],
)
def test_too_few_photos_are_refused(photos: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        draw_pairs(photos, folds=2, per_fold=2, seed=0)
    assert caught.value.remedy
