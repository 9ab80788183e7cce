"""Crop templates: the sizes of aligned crops and the positions of the five landmarks in them.

Every module that needs a crop size or the name of a template takes it from `TEMPLATES` or `TEMPLATE_OF_SIZE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sfplus.errors import UsageError
from sfplus.io.limits import check_limit

DEFAULT_TEMPLATE = "sphereface-112x96"
TemplateFit = Literal["image", "template"]

# SphereFace, preprocess/code/face_align_demo.m: left eye, right eye, nose, left and right mouth corner; 1-based pixels.
_SPHEREFACE = np.array(
    [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
)


@dataclass(frozen=True, eq=False)
class Template:
    """The size of a crop and the five points to which landmarks are fitted.

    Attributes:
        name: the name in recipes.
        width: of the crop, pixels.
        height: of the crop, pixels.
        points: float64 (5, 2), x y in 0-based pixel centres of the crop, in the order of `Faces.landmarks`; read-only.
        source: the origin of the numbers.
        first_pixel: the number that the source gives to the first pixel, 0 or 1; `points` are the source's numbers
            minus this.
        fit: the least squares that the source uses, see `fit_similarity`.

    Raises:
        UsageError: If the points are not finite or not of shape (5, 2).
    """

    name: str
    width: int
    height: int
    points: npt.NDArray[np.float64]
    source: str
    first_pixel: int = 0
    fit: TemplateFit = "image"

    def __post_init__(self) -> None:
        points = np.array(self.points, np.float64)
        if points.shape != (5, 2) or not np.isfinite(points).all():
            reason = f"expected finite points of shape (5, 2), got {points.shape}"
            raise UsageError(reason, where=f"template {self.name}")
        points.setflags(write=False)
        object.__setattr__(self, "points", points)

    @property
    def size(self) -> str:
        """The height and width as text, for example `112x96`."""
        return f"{self.height}x{self.width}"

    def counted_from(self, first_pixel: int) -> Template:
        """Return the template as if its source called the first pixel 0 or 1.

        OpenCV ports of SphereFace use its 1-based numbers unchanged, which is `counted_from(0)`: one pixel further to
        the lower right.
        """
        return replace(self, points=self.points + self.first_pixel - first_pixel, first_pixel=first_pixel)

    def resized(self, height: int, width: int) -> Template:
        """Return a template of another size, with the face in the middle and as large as fits.

        The points are scaled about the centre of the crop, so that `arcface-128x128` and `arcface-224x224` show what
        `arcface-112x112` shows. The crops of insightface differ: its 224x224 multiplies the points by 2, half a pixel
        less in x and y, and its 128x128 adds 8 to x, so that the face is smaller and higher.

        Raises:
            UsageError: If the size is smaller than 1x1.
        """
        if min(height, width) < 1:
            raise UsageError(f"expected a size of at least 1x1, got {height}x{width}", where=f"template {self.name}")
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
            DEFAULT_TEMPLATE,
            96,
            112,
            _SPHEREFACE - 1,
            "SphereFace, preprocess/code/face_align_demo.m, whose imtransform counts pixels from 1: minus 1 here",
            1,
            "image",
        ),
        Template(
            "arcface-112x112",
            112,
            112,
            _SPHEREFACE + np.array([8, 0]),
            "insightface, the same numbers plus 8 in x, fed there to OpenCV, which counts pixels from 0: no shift here",
            0,
            "template",
        ),
    )
}


# Eyes, tip of the nose and corners of the mouth of the mean face of dlib (image_transforms/interpolation.h).
_DLIB = np.array([[0.225492, 0.215996], [0.755609, 0.215996], [0.490127, 0.515625], [0.254149, 0.780233],
                  [0.726104, 0.780233]])  # fmt: skip
# Mean landmarks in MTCNN's boxes, measured on 386 photos of LFW, as parts of width and height.
_MTCNN_BOX = np.array([[0.2837, 0.3864], [0.7332, 0.3809], [0.5095, 0.5817], [0.3178, 0.7565], [0.7162, 0.7520]])

UNTRAINED_TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "dlib-150x150", 150, 150, (_DLIB + 0.25) / 1.5 * 150,
            "dlib, get_face_chip_details(size=150, padding=0.25)", fit="template",
        ),
        Template(
            "facenet-160x160", 160, 160, _MTCNN_BOX * 160 - 0.5,
            "measured: what a crop of MTCNN's box without margin shows on average (facenet-pytorch crops the box)",
            fit="template",
        ),
    )
}  # fmt: skip
"""Templates of public models, which no network of this project is trained on."""

TEMPLATE_OF_SIZE = {template.size: template for template in TEMPLATES.values()}  # 112x96, 112x112


def template_of_size(height: int, width: int) -> str:
    """Return the name of the template of crops of this size in pixels; of unusual sizes, that of ArcFace resized."""
    registered = {(t.height, t.width): t.name for t in (*TEMPLATES.values(), *UNTRAINED_TEMPLATES.values())}
    return registered.get((height, width), f"arcface-{height}x{width}")


def find_template(template: str | Template) -> Template:
    """Return the template with a name; a `Template` is returned unchanged.

    A name with another size, such as `sphereface-224x192` (height x width), gives the template resized.

    Raises:
        UsageError: If no template has this name.
    """
    if isinstance(template, Template):
        return template
    registered = TEMPLATES | UNTRAINED_TEMPLATES
    if template not in registered:
        families = {name.split("-")[0]: member for name, member in registered.items()}
        if (size := re.fullmatch(r"(\w+)-(\d{1,4})x(\d{1,4})", template)) and size[1] in families:
            height, width = int(size[2]), int(size[3])
            check_limit("crop_pixels", height * width, f"template {template}", error=UsageError)
            return families[size[1]].resized(height, width)
        raise UsageError(
            f"no template is called '{template}'",
            where="template",
            remedy=f"use {', '.join(registered)}, or one of these with another size",
        )
    return registered[template]
