"""Drawn portraits: synthetic photos that can be distributed freely, on which the demo trains.

No real person is shown: each face is computed from (seed, person, photo). The face of a person is constant (shape,
skin, eyes, brows, nose, mouth, hair); each photo adds pose, expression, light, background, clothes and camera noise.
People differ in geometry and shading. The tint of the hair, the hairline and the background change from photo to photo,
so that they do not identify a person. The same arguments give the same pixels on one machine; other processors may
round differently.
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

from sfplus.datasets.portraits.parameters import Floats, Shot, draw_shot
from sfplus.datasets.portraits.rendering import compose
from sfplus.datasets.portraits.scene import SIDE
from sfplus.images import encode_image
from sfplus.io.files import write_atomically

LANDMARK_COLUMNS = tuple(
    f"{name}_{axis}" for name in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in "xy"
)


@dataclass(frozen=True, eq=False)
class Portrait:
    """A drawn photo with its ground truth.

    Attributes:
        photo: (250, 250, 3) uint8 RGB.
        landmarks: (5, 2) float32, pixels with pixel centres at integers: left eye, right eye, nose tip, left and right
            mouth corner; left is the smaller x in an upright face.
        roll: degrees in the image plane, positive clockwise.
        yaw: degrees, positive when the nose points to larger x.
        pitch: degrees, positive when the nose points down.
        quality: JPEG quality of `jpeg`.
    """

    photo: NDArray[np.uint8]
    landmarks: Floats
    roll: float
    yaw: float
    pitch: float
    quality: int

    def jpeg(self) -> bytes:
        """Return the photo as a JPEG file."""
        return encode_image(self.photo, ".jpg", self.quality)


@lru_cache(maxsize=1)
def _grain() -> Floats:
    """Return sensor noise (500, 500, 3), grey and coarser coloured grain; each photo uses another part of it."""
    rng = np.random.default_rng(0)
    tinted = cv2.resize(rng.standard_normal((SIDE, SIDE, 3), np.float32), (2 * SIDE, 2 * SIDE))
    return rng.standard_normal((2 * SIDE, 2 * SIDE, 1), np.float32) + np.float32(0.6) * np.asarray(tinted, np.float32)


def _expose(image: Floats, shot: Shot) -> NDArray[np.uint8]:
    """Convert linear light (3, H, W) to 8-bit sRGB (H, W, 3) with the blur and noise of the camera."""
    pixels: NDArray[Any] = cv2.merge(list(image))
    if shot.blur > 0.2:
        pixels = cv2.GaussianBlur(pixels, (0, 0), shot.blur)
    if shot.motion:
        length = int(np.ceil(shot.motion)) | 1
        pixels = cv2.blur(pixels, (length, 1) if shot.texture % 2 else (1, length))
    bright = np.maximum(pixels, 0)
    bright = cv2.sqrt(bright / (1 + 0.18 * bright))
    top, left = divmod(shot.texture % SIDE**2, SIDE)
    grain = _grain()[top : top + SIDE, left : left + SIDE]
    return np.asarray(cv2.addWeighted(bright, 255, grain, shot.noise, 0, dtype=cv2.CV_8U), np.uint8)


def draw_portrait(
    person: int, photo: int, seed: int = 0, *, roll: float | None = None, yaw: float | None = None
) -> Portrait:
    """Draw a photo of a person; the same arguments give the same pixels.

    Args:
        person: 0-based number of the person.
        photo: 0-based number of the photo of this person.
        seed: 0-based number of the set of people.
        roll: degrees in the image plane; None: a random angle.
        yaw: degrees; None: a random angle.
    """
    shot = draw_shot(seed, person, photo, roll, yaw)
    image, landmarks = compose(seed, person, shot)
    degrees = [float(np.rad2deg(angle)) for angle in (shot.roll, shot.yaw, shot.pitch)]
    return Portrait(_expose(image, shot), landmarks, degrees[0], degrees[1], degrees[2], shot.quality)


def write_portraits(
    folder: Path,
    people: int,
    photos: int,
    seed: int,
    *,
    first_person: int = 0,
    on_photo: Callable[[], None] | None = None,
) -> list[dict[str, str | float]]:
    """Write portraits as `person_000/person_000_0001.jpg` and their ground truth as `landmarks.csv`.

    Args:
        folder: the destination, which is created if it is missing; files of the same names are replaced.
        people: number of people.
        photos: number of photos per person.
        seed: number of the set of people.
        first_person: number of the first person, for disjoint sets with one seed.
        on_photo: called after each photo, to show progress.

    Returns:
        The rows of `landmarks.csv`: path, ten coordinates in pixels, roll and yaw in degrees.
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
