from __future__ import annotations

import numpy as np
import pytest

from sfplus.detection import Faces
from sfplus.errors import UsageError


def numbered_faces(scores: list[float]) -> Faces:
    """Return faces whose coordinates encode their position in the list."""
    index = np.arange(len(scores), dtype=np.float32)
    boxes = index[:, None] * 10 + np.array([1, 2, 8, 9], np.float32)
    landmarks = np.broadcast_to(index[:, None, None] * 10 + 5, (len(scores), 5, 2))
    return Faces(boxes, np.array(scores), landmarks)


def test_all_arrays_are_sorted_by_score() -> None:
    faces = numbered_faces([0.5, 0.9, 0.7, 0.9])
    assert faces.scores.tolist() == pytest.approx([0.9, 0.9, 0.7, 0.5])
    assert faces.boxes[:, 0].tolist() == [11, 31, 21, 1]  # ties keep their order
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
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    arrays = {"boxes": np.zeros((1, 4)), "scores": np.zeros(1), "landmarks": np.zeros((1, 5, 2))}
    arrays[name] = arrays[name] + value
    with pytest.raises(UsageError, match=rf"Faces.{name}: .*not finite"):
        Faces(**arrays)


def test_faces_are_immutable_and_own_their_memory() -> None:
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
def test_an_index_selects_faces(index: object, expected: list[int]) -> None:
    faces = numbered_faces([0.9, 0.8, 0.7, 0.6])
    selected = faces[index]  # type: ignore[index]
    assert isinstance(selected, Faces)
    assert selected.boxes[:, 0].tolist() == expected
    assert len(selected) == len(selected.scores) == len(selected.landmarks) == len(expected)


def test_an_index_out_of_range_is_an_error() -> None:
    with pytest.raises(IndexError):
        numbered_faces([0.5])[1]


def test_iteration_yields_single_faces() -> None:
    assert [face.boxes[0, 0] for face in numbered_faces([0.9, 0.8])] == [1, 11]


def test_a_photo_without_faces() -> None:
    empty = Faces.empty()
    assert len(empty) == 0
    assert empty.landmarks.shape == (0, 5, 2)
    assert repr(empty) == "Faces(0)"
    photo = np.zeros((9, 9, 3), np.uint8)
    assert np.array_equal(empty.draw(photo), photo)


def test_the_repr_is_one_line() -> None:
    assert repr(numbered_faces([0.95])) == "Faces(1: 0.950 at (1, 2, 8, 9))"
    assert repr(numbered_faces([0.9] * 5)).endswith(" and 2 more)")
    assert "\n" not in repr(numbered_faces([0.9] * 5))


def test_box_and_landmarks_are_drawn_on_a_copy() -> None:
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


def test_boxes_outside_the_photo_can_be_drawn() -> None:
    faces = Faces([[-50, -50, 500, 500], [9, 9, 1, 1]], [0.9, 0.8], np.full((2, 5, 2), 1e4))  # type: ignore[arg-type]
    assert faces.draw(np.zeros((30, 20, 3), np.uint8)).shape == (30, 20, 3)
