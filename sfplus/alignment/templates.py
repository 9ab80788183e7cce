"""Where the five landmarks of a face belong in an aligned crop."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    name: str
    width: int
    height: int
    points: npt.NDArray[np.float64]
    source: str

    def __post_init__(self) -> None:
        points = np.array(self.points, np.float64)
        if points.shape != (5, 2) or not np.isfinite(points).all():
            reason = f"expected finite points of shape (5, 2), got {points.shape}"
            raise UsageError(reason, where=f"template {self.name}")
        points.setflags(write=False)
        object.__setattr__(self, "points", points)


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "sphereface-112x96",
            96,
            112,
            _SPHEREFACE - 1,
            "SphereFace, preprocess/code/face_align_demo.m, whose imtransform counts pixels from 1: minus 1 here",
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

    Raises:
        UsageError: no template has this name.
    """
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        raise UsageError(f"no template is called '{template}'", where="template", remedy=f"use {', '.join(TEMPLATES)}")
    return TEMPLATES[template]
