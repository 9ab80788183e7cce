from __future__ import annotations

import numpy as np
import pytest

from sfplus.detection import Choice, Faces, choose
from sfplus.errors import UsageError


def faces(*boxes: tuple[float, float, float, float]) -> Faces:
    """Faces with falling scores."""
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
def test_rules(rule: str, index: int, reason: str) -> None:
    found = faces(SMALL_CORNER, SMALL_CENTRE, LARGE_SIDE)
    assert choose(found, 100, 200, rule) == Choice(index, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["centre", "largest", "confident"])
def test_one_face_and_none(rule: str) -> None:
    assert choose(faces(SMALL_CORNER), 100, 200, rule) == Choice(0, "only face")  # type: ignore[arg-type]
    assert choose(Faces.empty(), 100, 200, rule) is None  # type: ignore[arg-type]


def test_centre_is_the_default_and_means_height_and_width() -> None:
    high, wide = faces((45, 140, 55, 160), (140, 45, 160, 55)), (300, 100)
    assert choose(high, *wide) == choose(high, *wide, "centre")
    assert choose(high, 300, 100).index == 0  # type: ignore[union-attr]
    assert choose(high, 100, 300).index == 1  # type: ignore[union-attr]


def test_centre_follows_the_matlab_code() -> None:
    """face_detect_demo.m on 1-based boxes, written down line by line."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.uniform(0, 200, (4, 2))
        found = faces(*np.hstack([corners, corners + rng.uniform(20, 60, (4, 2))]).tolist())
        total = found.boxes.astype(float) + 1
        centre_y, centre_x = total[:, [1, 3]].mean(1), total[:, [0, 2]].mean(1)
        distances = (centre_y - 250 / 2) ** 2 + (centre_x - 240 / 2) ** 2
        assert choose(found, 250, 240).index == distances.argmin()  # type: ignore[union-attr]


def test_of_equals_the_higher_score_wins() -> None:
    twins = faces((0, 0, 10, 10), (90, 90, 100, 100), (0, 0, 10, 10))
    assert choose(twins, 99, 99, "centre") == Choice(0, "nearest to the centre of 3 faces")
    assert choose(twins, 99, 99, "largest").index == 0  # type: ignore[union-attr]


def test_unknown_rule() -> None:
    with pytest.raises(UsageError, match=r"no rule is called 'center'.*centre, largest, confident"):
        choose(faces(SMALL_CORNER), 100, 200, "center")  # type: ignore[arg-type]
