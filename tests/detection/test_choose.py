from __future__ import annotations

import numpy as np
import pytest

from sfplus.detection import Choice, Faces, choose
from sfplus.errors import UsageError


def faces(*boxes: tuple[float, float, float, float]) -> Faces:
    """Return faces with descending scores."""
    scores = 0.99 - 0.01 * np.arange(len(boxes))
    return Faces(np.array(boxes, np.float32).reshape(-1, 4), scores, np.zeros((len(boxes), 5, 2)))


SMALL_CORNER, SMALL_CENTRE, LARGE_SIDE = (0, 0, 20, 20), (90, 40, 110, 60), (120, 20, 190, 90)


@pytest.mark.parametrize(
    ("rule", "index", "reason"),
    [
        ("centre", 1, "nearest to the centre of 3 faces"),
        ("largest", 2, "largest of 3 faces"),
        ("confident", 0, "highest score of 3 faces"),
    ],
)
def test_each_rule_chooses_its_face(rule: str, index: int, reason: str) -> None:
    candidates = faces(SMALL_CORNER, SMALL_CENTRE, LARGE_SIDE)
    assert choose(candidates, 100, 200, rule) == Choice(index, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["centre", "largest", "confident"])
def test_a_single_face_is_chosen_and_none_without_faces(rule: str) -> None:
    assert choose(faces(SMALL_CORNER), 100, 200, rule) == Choice(0, "only face")  # type: ignore[arg-type]
    assert choose(Faces.empty(), 100, 200, rule) is None  # type: ignore[arg-type]


def test_the_default_rule_is_the_centre_of_height_and_width() -> None:
    pair = faces((45, 140, 55, 160), (140, 45, 160, 55))
    assert choose(pair, 300, 100) == choose(pair, 300, 100, "centre")
    assert choose(pair, 300, 100).index == 0  # type: ignore[union-attr]
    assert choose(pair, 100, 300).index == 1  # type: ignore[union-attr]


def test_the_centre_rule_is_that_of_the_matlab_code() -> None:
    """The reference is face_detect_demo.m on 1-based boxes, transcribed line by line."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.uniform(0, 200, (4, 2))
        candidates = faces(*np.hstack([corners, corners + rng.uniform(20, 60, (4, 2))]).tolist())
        total = candidates.boxes.astype(float) + 1
        centre_y, centre_x = total[:, [1, 3]].mean(1), total[:, [0, 2]].mean(1)
        distances = (centre_y - 250 / 2) ** 2 + (centre_x - 240 / 2) ** 2
        assert choose(candidates, 250, 240).index == distances.argmin()  # type: ignore[union-attr]


def test_a_tie_goes_to_the_higher_score() -> None:
    tied = faces((0, 0, 10, 10), (90, 90, 100, 100), (0, 0, 10, 10))
    assert choose(tied, 99, 99, "centre") == Choice(0, "nearest to the centre of 3 faces")
    assert choose(tied, 99, 99, "largest").index == 0  # type: ignore[union-attr]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no rule is called 'center'.*centre, largest, confident"):
        choose(faces(SMALL_CORNER), 100, 200, "center")  # type: ignore[arg-type]
