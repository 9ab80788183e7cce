"""Faces that lie on their side or upside down."""

from __future__ import annotations

import numpy as np

from sfplus.detection.faces import Faces
from sfplus.detection.interface import PhotoDetector
from sfplus.images import Pixels

_TURNS = (1, 2, 3)  # by 90 degrees


class TurnedDetector(PhotoDetector):
    """Tries the other three orientations of each photo in which a detector finds no face, or none with a sure score.

    The orientation with the face of the highest score counts. Boxes and landmarks are those of the photo as it is. The
    first landmark is still the eye that is left in the upright face, so that crops are upright.

    Args:
        detector: the detector, which runs four times on such photos.
    """

    def __init__(self, detector: PhotoDetector) -> None:
        self._detector, self.sizes = detector, detector.sizes

    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        detected = self._detector.detect(photos)
        doubtful = [index for index, faces in enumerate(detected) if not _best_score(faces) > self._detector.sure_score]
        for turns in _TURNS if doubtful else ():
            turned = [np.ascontiguousarray(np.rot90(photos[index], turns)) for index in doubtful]
            for index, faces in zip(doubtful, self._detector.detect(turned), strict=True):
                if _best_score(faces) > _best_score(detected[index]):
                    detected[index] = turn_back(faces, turns, *photos[index].shape[:2])
        return detected


def _best_score(faces: Faces) -> float:
    return float(faces.scores[0]) if len(faces) else 0.0


def turn_back(faces: Faces, turns: int, height: int, width: int) -> Faces:
    """Return the faces of a photo that was turned by `numpy.rot90` in the coordinates of the original photo.

    Args:
        faces: the faces of the turned photo.
        turns: the number of quarter turns, counter-clockwise.
        height: of the original photo, pixels.
        width: of the original photo, pixels.
    """
    corners = faces.boxes.reshape(-1, 2, 2)
    points = np.concatenate([corners, faces.landmarks], 1)
    x, y = points[..., 0], points[..., 1]
    x, y = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)][turns % 4]
    points = np.stack([x, y], -1)
    corners, landmarks = points[:, :2], points[:, 2:]
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    return Faces(boxes, faces.scores, landmarks)
