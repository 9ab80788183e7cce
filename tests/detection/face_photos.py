"""Photos with and without faces, made from one public photo."""

from __future__ import annotations

import numpy as np
from skimage import data
from skimage.transform import resize

from sfplus.detection import Faces

ASTRONAUT = data.astronaut()
FACE = np.ascontiguousarray(ASTRONAUT[20:220, 130:310])  # 200x180


def shrunk(height: int, width: int) -> np.ndarray:
    """Return the face in another size, uint8 RGB."""
    return (resize(FACE, (height, width), anti_aliasing=True) * 255).astype(np.uint8)


PHOTOS = [
    FACE,
    np.ascontiguousarray(FACE[:, ::-1]),
    shrunk(100, 90),
    np.concatenate([shrunk(80, 70), shrunk(80, 72)[:, ::-1], np.zeros((80, 9, 3), np.uint8)], 1),
    np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8),
    shrunk(100, 90)[:, ::-1],
    np.zeros((100, 90, 3), np.uint8),
]


def same_bits(left: Faces, right: Faces) -> bool:
    """Return True if all arrays are equal to the last bit."""
    return all(np.array_equal(getattr(left, n), getattr(right, n)) for n in ("boxes", "scores", "landmarks"))
