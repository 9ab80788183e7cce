"""Which face, when a photo shows several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sfplus.detection.faces import Faces
from sfplus.errors import UsageError

Rule = Literal["centre", "largest", "confident"]


@dataclass(frozen=True)
class Choice:
    """The chosen face: its index and why it was chosen, in words."""

    index: int
    reason: str


def choose_all(faces: Faces) -> list[Choice]:
    """Every face of a photo, highest score first."""
    return [
        Choice(index, "only face" if len(faces) == 1 else f"face {index + 1} of {len(faces)}, by score")
        for index in range(len(faces))
    ]


def choose(faces: Faces, height: int, width: int, rule: Rule = "centre") -> Choice | None:
    """Choose one face of a photo; of equals the one with the higher score wins.

    Args:
        faces: the faces of the photo.
        height: of the photo, pixels.
        width: of the photo, pixels.
        rule: `centre`: the box centre nearest to the photo's centre, squared Euclidean (SphereFace,
            preprocess/code/face_detect_demo.m); `largest`: the largest box area; `confident`: the highest score.

    Returns:
        The choice, or None when there is no face.

    Raises:
        UsageError: no such rule.
    """
    if rule not in get_args(Rule):
        raise UsageError(f"no rule is called '{rule}'", where="choose", remedy=f"use {', '.join(get_args(Rule))}")
    if len(faces) < 2:
        return Choice(0, "only face") if len(faces) else None
    boxes = faces.boxes.astype(np.float64)
    if rule == "centre":
        # face_detect_demo.m compares 1-based box centres with (width, height) / 2; boxes here are 0-based.
        away = (boxes[:, :2] + boxes[:, 2:]) / 2 + 1 - (width / 2, height / 2)
        return Choice(int(np.argmin((away**2).sum(1))), f"nearest to the centre of {len(faces)} faces")
    if rule == "largest":
        sides = boxes[:, 2:] - boxes[:, :2]
        return Choice(int(np.argmax(sides.prod(1))), f"largest of {len(faces)} faces")
    return Choice(int(np.argmax(faces.scores)), f"highest score of {len(faces)} faces")
