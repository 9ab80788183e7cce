"""Faces that lie on their side or upside down."""

import numpy as np
import pytest

from sfplus.detection import Faces
from sfplus.detection.interface import PhotoDetector
from sfplus.detection.sizes import sizes_for
from sfplus.detection.turned import TurnedDetector, turn_back
from sfplus.device import choose_device

HEIGHT, WIDTH = 20, 30


class Upright(PhotoDetector):
    """Finds a face where the red pixel lies above the green one, and another, less sure, in other orientations."""

    def __init__(self, sure_score: float, wrong: float) -> None:
        self.sizes, self.sure_score, self._wrong = sizes_for(choose_device("cpu")), sure_score, wrong
        self.seen = 0

    def _detect_together(self, photos: list[np.ndarray]) -> list[Faces]:
        self.seen += len(photos)
        return [self._detect(photo) for photo in photos]

    def _detect(self, photo: np.ndarray) -> Faces:
        red, green = (np.argwhere(photo[:, :, channel] == 255) for channel in (0, 1))
        if not len(red):
            return Faces.empty()
        (y1, x1), (y2, x2) = red[0], green[0]
        score = 0.95 if x1 == x2 and y1 < y2 else self._wrong
        if not score:
            return Faces.empty()
        points = [[x1, y1], [x2, y2], [x1, y1], [x2, y2], [x1, y1]]
        return Faces([[min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]], [score], [points])


def photo_with_face() -> np.ndarray:
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    photo[3, 22, 0] = photo[9, 22, 1] = 255
    return photo


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("sure", "wrong"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.8)])
def test_landmarks_are_at_the_pixels_of_the_photo(turns: int, sure: float, wrong: float) -> None:
    photo = np.ascontiguousarray(np.rot90(photo_with_face(), turns))
    detector = Upright(sure, wrong)
    (faces,) = TurnedDetector(detector).detect([photo])
    assert len(faces) == 1 and faces.scores[0] == np.float32(0.95)
    (x1, y1), (x2, y2) = faces.landmarks[0, :2].astype(int)
    assert photo[y1, x1, 0] == 255 and photo[y2, x2, 1] == 255
    assert faces.boxes[0].tolist() == [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    assert detector.seen == (4 if turns else 1)


def test_only_photos_without_a_sure_face_are_tried_again() -> None:
    upright, empty = photo_with_face(), np.zeros((5, 7, 3), np.uint8)
    detector = Upright(0.9, 0.0)
    faces = TurnedDetector(detector).detect([upright, empty, upright])
    assert [len(found) for found in faces] == [1, 0, 1] and detector.seen == 6
    detector = Upright(0.0, 0.8)  # a score below that of an upright face is enough: this detector has no sure score
    (faces,) = TurnedDetector(detector).detect([np.ascontiguousarray(np.rot90(upright))])
    assert faces.scores[0] == np.float32(0.8) and detector.seen == 1


class Several(PhotoDetector):
    """Finds unsure faces where the marked corner is the upper left one, and others after one turn."""

    sure_score = 0.9

    def __init__(self, upright: list[list[float]], turned: list[list[float]]) -> None:
        self.sizes, self._upright, self._turned = sizes_for(choose_device("cpu")), upright, turned

    def _detect_together(self, photos: list[np.ndarray]) -> list[Faces]:
        return [self._faces(photo) for photo in photos]

    def _faces(self, photo: np.ndarray) -> Faces:
        rows = self._upright if photo[0, 0].any() else self._turned if photo[-1, 0].any() else []
        table = np.array(rows, np.float32).reshape(-1, 5)
        return Faces(table[:, :4], table[:, 4], np.repeat(table[:, None, :2], 5, 1))


def merged(upright: list[list[float]], turned: list[float]) -> list[list[float]]:
    """Return the boxes and scores in a photo of 60x100 pixels; (x, y) of the turned one is (99 - y, x) of the photo."""
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[0, 0] = 255
    (faces,) = TurnedDetector(Several(upright, [turned])).detect([photo])
    return [[*box, round(float(score), 2)] for box, score in zip(faces.boxes.tolist(), faces.scores, strict=True)]


@pytest.mark.parametrize("score", [0.95, 0.78, 0.71])
def test_faces_of_the_other_orientations_are_added_to_the_upright_ones(score: float) -> None:
    upright = [[0, 0, 9, 9, 0.8], [20, 0, 29, 9, 0.75], [40, 30, 49, 39, 0.7]]
    assert sorted(merged(upright, [2, 2, 11, 11, score])) == sorted([*upright, [88, 2, 97, 11, score]])


@pytest.mark.parametrize(("score", "kept"), [(0.85, [88, 2, 97, 11, 0.85]), (0.75, [88, 3, 97, 12, 0.8])])
def test_of_faces_that_overlap_the_better_one_stays(score: float, kept: list[float]) -> None:
    upright = [[88, 3, 97, 12, 0.8], [80, 8, 89, 17, 0.7]]  # the second one is only touched
    assert merged(upright, [2, 2, 11, 11, score]) == [kept, upright[1]]


def test_faces_that_one_orientation_finds_may_overlap() -> None:
    upright = [[10, 10, 19, 19, 0.8], [11, 11, 20, 20, 0.7]]
    assert merged(upright, [2, 2, 4, 4, 0.75]) == [upright[0], [95, 2, 97, 4, 0.75], upright[1]]


def test_four_quarter_turns_change_nothing() -> None:
    faces = Faces([[1, 2, 5, 9]], [0.5], [np.arange(10).reshape(5, 2)])
    again = faces
    for height, width in [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT)]:
        again = turn_back(again, 1, height, width)
    np.testing.assert_allclose(again.boxes, faces.boxes)
    np.testing.assert_allclose(again.landmarks, faces.landmarks)
