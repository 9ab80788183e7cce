"""Drawn portraits: the photos that this project may carry and that its demo learns from.

Nobody is shown: every face is computed from (seed, person, photo). A person has a lasting face (shape, skin, eyes,
brows, nose, mouth, hair); a photo adds pose, expression, light, background, clothes and the faults of a camera. People
differ in geometry and shading; the tint of the hair, its line and the background change from photo to photo, so that
they are poor clues. Pixels are the same for the same arguments on one machine; another processor may round differently.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.portraits.drawing import compose
from sfplus.datasets.portraits.people import Floats, Shot, draw_shot
from sfplus.datasets.portraits.scene import SIDE
from sfplus.images import encode_image
from sfplus.io.files import write_atomically

LANDMARK_COLUMNS = tuple(
    f"{name}_{axis}" for name in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in "xy"
)


@dataclass(frozen=True, eq=False)
class Portrait:
    """One drawn photo and the truth about it.

    Attributes:
        photo: (250, 250, 3) uint8 RGB.
        landmarks: (5, 2) float32 pixels, pixel centres at integers: left eye, right eye, nose tip, left and right mouth
            corner, left being the smaller x in an upright face.
        roll: degrees in the picture plane, positive clockwise as seen.
        yaw: degrees, positive when the nose points to larger x.
        pitch: degrees, positive when the nose points down.
        quality: JPEG quality that `jpeg` uses.
    """

    photo: NDArray[np.uint8]
    landmarks: Floats
    roll: float
    yaw: float
    pitch: float
    quality: int

    def jpeg(self) -> bytes:
        """The photo as a JPEG file of the portrait's own quality."""
        return encode_image(self.photo, ".jpg", self.quality)


@lru_cache(maxsize=1)
def _grain() -> Floats:
    """Grey and coarser coloured grain of a sensor, (500, 500, 3); each photo shows another part of it."""
    rng = np.random.default_rng(0)
    tinted = cv2.resize(rng.standard_normal((SIDE, SIDE, 3), np.float32), (2 * SIDE, 2 * SIDE))
    return rng.standard_normal((2 * SIDE, 2 * SIDE, 1), np.float32) + np.float32(0.6) * np.asarray(tinted, np.float32)


def _expose(picture: Floats, shot: Shot) -> NDArray[np.uint8]:
    """Turn linear light into 8-bit sRGB through the lens and the sensor of the photo."""
    seen: NDArray[Any] = cv2.merge(list(picture))
    if shot.blur > 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), shot.blur)
    if shot.motion:
        reach = int(np.ceil(shot.motion)) | 1
        seen = cv2.blur(seen, (reach, 1) if shot.texture % 2 else (1, reach))
    bright = np.maximum(seen, 0)
    bright = cv2.sqrt(bright / (1 + 0.18 * bright))
    top, left = divmod(shot.texture % SIDE**2, SIDE)
    grain = _grain()[top : top + SIDE, left : left + SIDE]
    return np.asarray(cv2.addWeighted(bright, 255, grain, shot.noise, 0, dtype=cv2.CV_8U), np.uint8)


def draw_portrait(
    person: int, photo: int, seed: int = 0, *, roll: float | None = None, yaw: float | None = None
) -> Portrait:
    """Draw one photo of one person; the same arguments give the same pixels.

    Args:
        person: number of the person, from 0.
        photo: number of the photo of this person, from 0.
        seed: number of the whole set of people, from 0.
        roll: degrees in the picture plane instead of the drawn angle.
        yaw: degrees instead of the drawn angle.
    """
    shot = draw_shot(seed, person, photo, roll, yaw)
    picture, landmarks = compose(seed, person, shot)
    roll_, yaw_, pitch = (float(np.rad2deg(angle)) for angle in (shot.roll, shot.yaw, shot.pitch))
    return Portrait(_expose(picture, shot), landmarks, roll_, yaw_, pitch, shot.quality)


def write_portraits(
    folder: Path,
    people: int,
    photos: int,
    seed: int,
    *,
    first_person: int = 0,
    on_photo: Callable[[], None] | None = None,
) -> list[dict[str, str | float]]:
    """Write `people` x `photos` portraits as `person_000/person_000_0001.jpg`, and their truth as `landmarks.csv`.

    Args:
        folder: where to write; made when missing. Files of the same names are replaced.
        people: how many people.
        photos: how many photos of each.
        seed: number of the set of people.
        first_person: number of the first person, so that disjoint sets share one seed.
        on_photo: called after each photo, for progress.

    Returns:
        The rows of `landmarks.csv`: photo, ten coordinates in pixels, roll and yaw in degrees.
    """
    rows: list[dict[str, str | float]] = []
    for person in range(first_person, first_person + people):
        name = f"person_{person:03d}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        for photo in range(photos):
            portrait = draw_portrait(person, photo, seed)
            path = f"{name}/{name}_{photo + 1:04d}.jpg"
            write_atomically(folder / path, portrait.jpeg())
            points = [round(float(value), 3) for value in portrait.landmarks.ravel()]
            angles = {"roll": round(portrait.roll, 3), "yaw": round(portrait.yaw, 3)}
            rows.append({"photo": path, **dict(zip(LANDMARK_COLUMNS, points, strict=True)), **angles})
            if on_photo is not None:
                on_photo()
    table = io.StringIO()
    writer = csv.DictWriter(table, ["photo", *LANDMARK_COLUMNS, "roll", "yaw"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "landmarks.csv", table.getvalue().encode())
    return rows
