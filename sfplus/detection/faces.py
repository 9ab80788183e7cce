"""The detected faces of one photo, as parallel arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sfplus.errors import UsageError

if TYPE_CHECKING:
    from sfplus.detection.photos import Channels, Photo

Floats = npt.NDArray[np.float32]
Index = int | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer] | list[int] | list[bool]

_BOX_COLOUR, _POINT_COLOUR = (0, 255, 0), (255, 64, 64)


@dataclass(frozen=True, eq=False)
class Faces:
    """The N faces of one photo, sorted by descending score; the arrays are read-only.

    Coordinates are 0-based pixel centres: (0, 0) is the centre of the upper left pixel, x points right, y down.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2, the first and last column and row of each face.
        scores: float32 (N,), from 0 to 1.
        landmarks: float32 (N, 5, 2), x y of left eye, right eye, nose, left and right mouth corner, where left is the
            left side of the photo.

    Raises:
        UsageError: If the shapes do not match, or a number is not finite.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats

    def __post_init__(self) -> None:
        scores = np.array(self.scores, np.float32)
        count = len(scores) if scores.ndim else 0
        order = np.argsort(-scores, axis=-1, kind="stable") if scores.ndim == 1 else slice(None)
        for name, shape in (("scores", (count,)), ("boxes", (count, 4)), ("landmarks", (count, 5, 2))):
            array = np.array(getattr(self, name), np.float32)
            if array.shape != shape:
                raise UsageError(f"expected shape {shape} for {count} scores, got {array.shape}", where=f"Faces.{name}")
            if not np.isfinite(array).all():
                raise UsageError("holds numbers that are not finite", where=f"Faces.{name}")
            array = array[order]
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @staticmethod
    def empty() -> Faces:
        """Return an object without faces."""
        return Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> Self:
        """Return the selected faces, sorted by score; a single number gives an object of length 1."""
        rows: slice | npt.NDArray[np.generic] = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(rows, slice) and not rows.size and rows.dtype != np.bool_:
            rows = slice(0)
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __repr__(self) -> str:
        first = ", ".join(
            f"{score:.3f} at ({x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f})"
            for score, (x1, y1, x2, y2) in zip(self.scores[:3], self.boxes[:3], strict=True)
        )
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        return f"{type(self).__name__}({len(self)}{': ' if first else ''}{first}{more})"

    def draw(self, photo: Photo, *, channels: Channels = "rgb") -> npt.NDArray[np.uint8]:
        """Draw boxes and landmarks on a copy of a photo.

        Args:
            photo: in any form that `Detector.detect` accepts, not modified.
            channels: order of the channels of an array or a tensor, `rgb` or `bgr`.

        Returns:
            uint8 RGB (H, W, 3).

        Raises:
            PhotoError: If the photo cannot be read.
        """
        from sfplus.detection.photos import to_pixels  # start-up time: imports torch

        image = Image.fromarray(to_pixels(photo, channels))
        pen = ImageDraw.Draw(image)
        width = max(1, round(min(image.size) / 250))
        for box, points in zip(self.boxes.tolist(), self.landmarks.tolist(), strict=True):
            x1, y1, x2, y2 = box
            pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=_BOX_COLOUR, width=width)
            for x, y in points:
                pen.ellipse((x - width, y - width, x + width, y + width), fill=_POINT_COLOUR)
        return np.array(image)
