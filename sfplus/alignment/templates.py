"""Where the five landmarks of a face belong in an aligned crop."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sfplus.errors import UsageError

# SphereFace, preprocess/code/face_align_demo.m: left eye, right eye, nose, left and right mouth corner; 1-based pixels.
_SPHEREFACE = np.array(
    [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
)


@dataclass(frozen=True, eq=False)
class Template:
    """The size of a crop and the five points that the landmarks are fitted to.

    Attributes:
        name: how recipes call it.
        width: of the crop, pixels.
        height: of the crop, pixels.
        points: float64 (5, 2), x y in 0-based pixel centres of the crop, in the order of `Faces.landmarks`; read-only.
        source: where the numbers come from.
        first_pixel: what the source calls the first pixel, 0 or 1; `points` are its numbers minus this.
    """

    name: str
    width: int
    height: int
    points: npt.NDArray[np.float64]
    source: str
    first_pixel: int = 0

    def __post_init__(self) -> None:
        points = np.array(self.points, np.float64)
        if points.shape != (5, 2) or not np.isfinite(points).all():
            reason = f"expected finite points of shape (5, 2), got {points.shape}"
            raise UsageError(reason, where=f"template {self.name}")
        points.setflags(write=False)
        object.__setattr__(self, "points", points)

    def counted_from(self, first_pixel: int) -> Template:
        """The same numbers of the source, read as if it called the first pixel 0 or 1.

        OpenCV ports of SphereFace take the 1-based numbers as they are: `counted_from(0)`, a pixel to the lower right.
        """
        return replace(self, points=self.points + self.first_pixel - first_pixel, first_pixel=first_pixel)

    def resized(self, height: int, width: int) -> Template:
        """The same face as large as fits, in the middle of a crop of another size.

        Raises:
            UsageError: the size is not at least 1 x 1.
        """
        if min(height, width) < 1:
            raise UsageError(
                f"expected a size of at least 1 x 1, got {height} x {width}", where=f"template {self.name}"
            )
        middle = np.array([self.width - 1, self.height - 1]) / 2
        points = (self.points - middle) * min(height / self.height, width / self.width)
        name = f"{self.name.split('-')[0]}-{height}x{width}"
        return replace(
            self, name=name, width=width, height=height, points=points + np.array([width - 1, height - 1]) / 2
        )


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "sphereface-112x96",
            96,
            112,
            _SPHEREFACE - 1,
            "SphereFace, preprocess/code/face_align_demo.m, whose imtransform counts pixels from 1: minus 1 here",
            1,
        ),
        Template(
            "arcface-112x112",
            112,
            112,
            _SPHEREFACE + np.array([8, 0]),
            "insightface, the same numbers plus 8 in x, fed there to OpenCV, which counts pixels from 0: no shift here",
        ),
    )
}


def find_template(template: str | Template) -> Template:
    """Look a template up by name; a template is returned as it is.

    A name with another size, as `sphereface-224x192` (height x width), gives the template resized.

    Raises:
        UsageError: no template has this name.
    """
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        kinds = {name.split("-")[0]: known for name, known in TEMPLATES.items()}
        if (size := re.fullmatch(r"(\w+)-(\d{1,4})x(\d{1,4})", template)) and size[1] in kinds:
            return kinds[size[1]].resized(int(size[2]), int(size[3]))
        raise UsageError(
            f"no template is called '{template}'",
            where="template",
            remedy=f"use {', '.join(TEMPLATES)}, or one of these with another size",
        )
    return TEMPLATES[template]
