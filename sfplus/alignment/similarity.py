"""The least-squares similarity (rotation, one scale, shift; never a reflection) from landmarks to a template.

Points are complex numbers x + iy: a similarity is then z -> a z + b, and its least-squares fit has a closed form.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sfplus.alignment.templates import Template, find_template
from sfplus.errors import PhotoError, UsageError

Fit = Literal["source", "image", "template"]
Floats = npt.NDArray[np.float64]

_MIN_SPREAD = 1e-6  # of the landmarks in pixels, and of the correlation, below which no fit exists


def fit_similarity(landmarks: npt.ArrayLike, template: str | Template, fit: Fit = "source") -> Floats:
    """Fit the photo-to-crop transformation of each face.

    Args:
        landmarks: (N, 5, 2), x y in 0-based pixel centres of the photo.
        template: a name in `TEMPLATES`, or a template.
        fit: the space in which squared distances are minimised. `image`: the photo, as MATLAB's cp2tform does for
            SphereFace (template to photo, then inverted); `template`: the crop, as Umeyama (IEEE PAMI 13-4, 1991),
            scikit-image and the ArcFace pipelines do; `source`: as the template's source does (`Template.fit`). Both
            agree on the rotation and on the mean of the landmarks; the first magnifies more, by 1 / r^2, where r <= 1
            is the correlation of the landmarks with the template.

    Returns:
        float64 (N, 2, 3): matrices from photo to crop, for column vectors (x, y, 1).

    Raises:
        UsageError: If the shape is wrong, or the template or fit unknown.
        PhotoError: If landmarks are not finite, coincide, or only fit as a mirror image.
    """
    target = find_template(template)
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise UsageError(f"expected shape (N, 5, 2), got {points.shape}", where="landmarks")
    if fit not in get_args(Fit):
        raise UsageError(f"no fit is called '{fit}'", where="fit", remedy=f"use {' or '.join(get_args(Fit))}")
    _refuse(~np.isfinite(points).all((1, 2)), "are not finite")
    fit = target.fit if fit == "source" else fit
    source, goal = points[..., 0] + 1j * points[..., 1], target.points[:, 0] + 1j * target.points[:, 1]
    source_mean, goal_mean = source.mean(1), goal.mean()
    source, goal = source - source_mean[:, None], goal - goal_mean
    variance = (abs(source) ** 2).sum(1)
    _refuse(variance < _MIN_SPREAD**2, "all lie on one point")
    covariance = (source.conj() * goal).sum(1)  # 0 when only a mirror image fits
    _refuse(abs(covariance) < _MIN_SPREAD * np.sqrt(variance * (abs(goal) ** 2).sum()), "do not look like a face")
    rotation = (abs(goal) ** 2).sum() / covariance.conj() if fit == "image" else covariance / variance  # times scale
    shift = goal_mean - rotation * source_mean
    rows = [[rotation.real, -rotation.imag, shift.real], [rotation.imag, rotation.real, shift.imag]]
    return np.moveaxis(np.array(rows, np.float64), -1, 0)


def _refuse(invalid: npt.ArrayLike, reason: str) -> None:
    """Raise `PhotoError` for the first face that is marked as invalid."""
    faces = np.atleast_1d(invalid)
    if faces.any():
        which = f"landmarks of face {int(np.flatnonzero(faces)[0])}" if len(faces) > 1 else "landmarks"
        raise PhotoError(reason, where=which, remedy="leave this face out")
