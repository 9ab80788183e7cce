"""Faces that lie on their side or upside down."""

from __future__ import annotations

import numpy as np

from sfplus.detection.faces import Faces, Floats
from sfplus.detection.interface import PhotoDetector
from sfplus.images import Pixels

_TURNS = (1, 2, 3)  # by 90 degrees
_OVERLAP = 0.5  # of the smaller box: more is the same face, found in two orientations


class TurnedDetector(PhotoDetector):
    """Tries the other three orientations of each photo in which a detector finds no face, or none with a sure score.

    Where faces of several orientations overlap, the one with the highest score counts. Boxes and landmarks are those of
    the photo as it is. The first landmark is still the eye that is left in the upright face, so that crops are upright.

    Args:
        detector: the detector, which runs four times on such photos.
    """

    def __init__(self, detector: PhotoDetector) -> None:
        self._detector, self.sizes = detector, detector.sizes

    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        detected = self._detector.detect(photos)
        doubtful = [index for index, faces in enumerate(detected) if not _best_score(faces) > self._detector.sure_score]
        for turns in _TURNS if doubtful else ():
            turned = (np.ascontiguousarray(np.rot90(photos[index], turns)) for index in doubtful)
            for index, faces in zip(doubtful, self._detector.detect(turned), strict=True):
                detected[index] = _merge(detected[index], turn_back(faces, turns, *photos[index].shape[:2]))
        return detected


def _best_score(faces: Faces) -> float:
    return float(faces.scores[0]) if len(faces) else 0.0


def _merge(first: Faces, second: Faces) -> Faces:
    """Return the faces of both; where one of the first and one of the second overlap, that of the higher score."""
    if not (len(first) and len(second)):
        return first if len(first) else second
    overlap = _overlaps(first.boxes, second.boxes) > _OVERLAP
    kept = np.zeros(len(first), bool), np.zeros(len(second), bool)
    scores = np.concatenate([first.scores, second.scores])
    for index in np.argsort(-scores, kind="stable").tolist():
        if index < len(first):
            kept[0][index] = not (overlap[index] & kept[1]).any()
        else:
            index -= len(first)
            kept[1][index] = not (overlap[:, index] & kept[0]).any()
    first, second = first[kept[0]], second[kept[1]]
    return Faces(
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.scores, second.scores]),
        np.concatenate([first.landmarks, second.landmarks]),
    )


def _overlaps(first: Floats, second: Floats) -> Floats:
    """Return the shares of the smaller of two boxes that lie in the other: (N, M) for (N, 4) and (M, 4)."""
    sides = np.minimum(first[:, None, 2:], second[:, 2:]) - np.maximum(first[:, None, :2], second[:, :2]) + 1
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (first, second)]
    shares: Floats = sides.clip(0).prod(2) / np.minimum(areas[0][:, None], areas[1])
    return shares


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
