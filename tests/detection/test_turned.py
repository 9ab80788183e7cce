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


def test_four_quarter_turns_change_nothing() -> None:
    faces = Faces([[1, 2, 5, 9]], [0.5], [np.arange(10).reshape(5, 2)])
    again = faces
    for height, width in [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT)]:
        again = turn_back(again, 1, height, width)
    np.testing.assert_allclose(again.boxes, faces.boxes)
    np.testing.assert_allclose(again.landmarks, faces.landmarks)
