from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError


@pytest.mark.parametrize(
    "change",
    [
        {"left": ("A/1",)},
        {"left": ("A/1", "../A/2")},
        {"left": ("A/1", "/A/2")},
        {"left": ("A/1", "A//2")},
        {"left": ("A/1", "A/\x002")},
        {"same": np.array([1, 0])},
        {"fold": np.array([0, 0], dtype=np.int32)},
        {"fold": np.array([0, 2], dtype=np.int64)},
        {"fold": np.array([-1, 1], dtype=np.int64)},
        {"fold": np.array([-1, -1], dtype=np.int64)},
    ],
)
def test_pairs_are_validated(change: dict[str, object]) -> None:
    good: dict[str, object] = {
        "left": ("A/1", "A/2"),
        "right": ("B/1", "A/3"),
        "same": np.array([False, True]),
        "fold": np.array([0, 1], dtype=np.int64),
    }
    Pairs(**good)  # type: ignore[arg-type]
    with pytest.raises(PairsError):
        Pairs(**{**good, **change})  # type: ignore[arg-type]


def pairs_of(rows: list[tuple[str, str, bool]]) -> Pairs:
    left, right, same = zip(*rows, strict=True)
    return Pairs(left, right, np.array(same), np.zeros(len(rows), np.int64))


def test_people_are_folders_joined_by_same_pairs() -> None:
    people = pairs_of([("A/1", "A/2", True), ("A/1", "B/1", False), ("C/f/1", "C/p/1", True)]).people
    assert people.names == ("A", "B", "C")
    assert (people.left.tolist(), people.right.tolist()) == ([0, 0, 2], [0, 1, 2])


def test_people_without_folders_are_joined_by_same_pairs_only() -> None:
    people = pairs_of([("1", "2", True), ("2", "3", False), ("3", "4", True), ("5", "1", False)]).people
    assert people.left.tolist() == [0, 0, 1, 2] and people.right.tolist() == [0, 1, 1, 0]
    people = pairs_of([("all/1", "all/2", True), ("all/1", "all/3", False)]).people
    assert people.right.tolist() == [0, 1], "one folder holds everybody"


def test_pairs_are_selected_by_a_mask() -> None:
    pairs = pairs_of([("A/1", "A/2", True), ("A/1", "B/1", False)])
    assert pairs[np.array([False, True])].right == ("B/1",)
    assert pairs.tested is pairs


def test_pairs_of_one_kind_are_refused_in_plain_words() -> None:
    for same, words in ((True, "only pairs of the same person, .* pairs of different people too"),
                        (False, "only pairs of different people, .* pairs of the same person too")):  # fmt: skip
        pairs = pairs_of([("A/1", "A/2", same), ("A/1", "A/3", same)])
        with pytest.raises(PairsError, match=words):
            pairs.check_kinds(Path("pairs.txt"))
    pairs_of([("A/1", "A/2", True), ("A/1", "A/3", False)]).check_kinds(Path("pairs.txt"))


def test_photos_are_renamed() -> None:
    assert pairs_of([("A/1", "A/2", True)]).renamed({"A/1": "x/A/1.jpg"}).left == ("x/A/1.jpg",)
