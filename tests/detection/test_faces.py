from __future__ import annotations

import numpy as np
import pytest

from sfplus.detection import Faces
from sfplus.errors import UsageError


def some(scores: list[float]) -> Faces:
    """Faces whose numbers all begin with their position in the list."""
    index = np.arange(len(scores), dtype=np.float32)
    boxes = index[:, None] * 10 + np.array([1, 2, 8, 9], np.float32)
    landmarks = np.broadcast_to(index[:, None, None] * 10 + 5, (len(scores), 5, 2))
    return Faces(boxes, np.array(scores), landmarks)


def test_sorted_by_score_with_all_arrays_together() -> None:
    faces = some([0.5, 0.9, 0.7, 0.9])
    assert faces.scores.tolist() == pytest.approx([0.9, 0.9, 0.7, 0.5])
    assert faces.boxes[:, 0].tolist() == [11, 31, 21, 1]  # equals stay in order
    assert faces.landmarks[:, 0, 0].tolist() == [15, 35, 25, 5]
    assert {array.dtype for array in (faces.boxes, faces.scores, faces.landmarks)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("boxes", "scores", "landmarks", "message"),
    [
        ((2, 4), (3,), (3, 5, 2), r"Faces.boxes: expected shape \(3, 4\) for 3 scores, got \(2, 4\)"),
        ((3, 5), (3,), (3, 5, 2), r"Faces.boxes: expected shape \(3, 4\) for 3 scores, got \(3, 5\)"),
        ((3, 4), (3,), (3, 10), r"Faces.landmarks: expected shape \(3, 5, 2\) for 3 scores, got \(3, 10\)"),
        ((3, 4), (3, 1), (3, 5, 2), r"Faces.scores: expected shape \(3,\) for 3 scores, got \(3, 1\)"),
        ((0, 4), (), (0, 5, 2), r"Faces.scores: expected shape \(0,\)"),
    ],
)
def test_shapes_are_checked(
    boxes: tuple[int, ...], scores: tuple[int, ...], landmarks: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Faces(np.zeros(boxes), np.zeros(scores), np.zeros(landmarks))


@pytest.mark.parametrize("name", ["boxes", "scores", "landmarks"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_must_be_finite(name: str, bad: float) -> None:
    arrays = {"boxes": np.zeros((1, 4)), "scores": np.zeros(1), "landmarks": np.zeros((1, 5, 2))}
    arrays[name] = arrays[name] + bad
    with pytest.raises(UsageError, match=rf"Faces.{name}: .*not finite"):
        Faces(**arrays)


def test_cannot_be_changed_and_does_not_share_memory() -> None:
    scores = np.array([0.5], np.float32)
    faces = Faces(np.zeros((1, 4), np.float32), scores, np.zeros((1, 5, 2), np.float32))
    scores[0] = 1
    assert faces.scores[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        faces.boxes[0, 0] = 1
    with pytest.raises(AttributeError):
        faces.scores = scores  # type: ignore[misc]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [1]),
        (-1, [31]),
        (np.int64(1), [11]),
        (slice(1, 3), [11, 21]),
        (slice(None, None, 2), [1, 21]),
        ([0, 3], [1, 31]),
        ([], []),
        (np.array([], np.int64), []),
        (np.array([True, False, True, False]), [1, 21]),
        ([False] * 4, []),
    ],
)
def test_selection(index: object, expected: list[int]) -> None:
    faces = some([0.9, 0.8, 0.7, 0.6])
    part = faces[index]  # type: ignore[index]
    assert isinstance(part, Faces)
    assert part.boxes[:, 0].tolist() == expected
    assert len(part) == len(part.scores) == len(part.landmarks) == len(expected)


def test_selection_out_of_range() -> None:
    with pytest.raises(IndexError):
        some([0.5])[1]


def test_iteration_gives_faces_one_by_one() -> None:
    assert [face.boxes[0, 0] for face in some([0.9, 0.8])] == [1, 11]


def test_empty() -> None:
    nothing = Faces.empty()
    assert len(nothing) == 0
    assert nothing.landmarks.shape == (0, 5, 2)
    assert repr(nothing) == "Faces(0)"
    photo = np.zeros((9, 9, 3), np.uint8)
    assert np.array_equal(nothing.draw(photo), photo)


def test_repr_is_one_line() -> None:
    assert repr(some([0.95])) == "Faces(1: 0.950 at (1, 2, 8, 9))"
    assert repr(some([0.9] * 5)).endswith(" and 2 more)")
    assert "\n" not in repr(some([0.9] * 5))


def test_draw_marks_box_and_landmarks_on_a_copy() -> None:
    photo = np.zeros((100, 120, 3), np.uint8)
    points = [[30, 30], [50, 30], [40, 40], [32, 50], [48, 50]]
    faces = Faces([[20, 15, 60, 70]], [0.9], [points])  # type: ignore[arg-type,list-item]
    drawn = faces.draw(photo)
    assert not photo.any()
    assert drawn.shape == photo.shape
    coloured = drawn.any(2)
    assert all(coloured[y, x] for x, y in points)
    assert coloured[15, 20:61].all() and coloured[70, 20:61].all()
    assert coloured[15:71, 20].all() and coloured[15:71, 60].all()
    assert not coloured[20, 40] and not coloured[10, 10]


def test_draw_survives_boxes_outside_the_photo() -> None:
    faces = Faces([[-50, -50, 500, 500], [9, 9, 1, 1]], [0.9, 0.8], np.full((2, 5, 2), 1e4))  # type: ignore[arg-type]
    assert faces.draw(np.zeros((30, 20, 3), np.uint8)).shape == (30, 20, 3)
