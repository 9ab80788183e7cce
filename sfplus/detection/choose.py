"""The choice of one face in a photo with several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sfplus.detection.faces import Faces
from sfplus.errors import UsageError

Rule = Literal["centre", "largest", "confident"]


@dataclass(frozen=True)
class Choice:
    """A chosen face.

    Attributes:
        index: its position in `Faces`.
        reason: the reason for the choice, in words.
    """

    index: int
    reason: str


ONLY_FACE = Choice(0, "only face")


def check_rule(rule: str, *more: str) -> None:
    """Check the name of a rule, which may also be one of `more`.

    Raises:
        UsageError: If the rule is unknown.
    """
    if rule not in (names := (*more, *get_args(Rule))):
        raise UsageError(f"no rule is called '{rule}'", where="choose", remedy=f"use {', '.join(names)}")


def choose_all(faces: Faces) -> list[Choice]:
    """Return all faces of a photo, highest score first."""
    if len(faces) == 1:
        return [ONLY_FACE]
    return [Choice(index, f"face {index + 1} of {len(faces)}, by score") for index in range(len(faces))]


def choose(faces: Faces, height: int, width: int, rule: Rule = "centre") -> Choice | None:
    """Choose one face of a photo; a tie goes to the face with the higher score.

    Args:
        faces: the faces of the photo.
        height: of the photo, pixels.
        width: of the photo, pixels.
        rule: `centre`, the face whose box centre is nearest to the centre of the photo, by squared Euclidean distance
            (SphereFace, preprocess/code/face_detect_demo.m); `largest`, the face with the largest box area; or
            `confident`, the face with the highest score.

    Returns:
        The choice, or None if the photo has no face.

    Raises:
        UsageError: If the rule is unknown.
    """
    check_rule(rule)
    if len(faces) < 2:
        return ONLY_FACE if len(faces) else None
    boxes = faces.boxes.astype(np.float64)
    if rule == "centre":
        # face_detect_demo.m compares 1-based box centres with (width, height) / 2; boxes here are 0-based.
        offsets = (boxes[:, :2] + boxes[:, 2:]) / 2 + 1 - (width / 2, height / 2)
        return Choice(int(np.argmin((offsets**2).sum(1))), f"nearest to the centre of {len(faces)} faces")
    if rule == "largest":
        sides = boxes[:, 2:] - boxes[:, :2]
        return Choice(int(np.argmax(sides.prod(1))), f"largest of {len(faces)} faces")
    return Choice(int(np.argmax(faces.scores)), f"highest score of {len(faces)} faces")
