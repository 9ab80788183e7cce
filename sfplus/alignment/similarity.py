"""The similarity transformation (rotation, one scale, shift; never a reflection) that brings landmarks onto a template.

Points are complex numbers x + iy here: a similarity is then z -> a z + b, and its least-squares fit has a closed form.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sfplus.alignment.templates import Template, find_template
from sfplus.errors import PhotoError, UsageError

Fit = Literal["image", "template"]
Floats = npt.NDArray[np.float64]

_LEAST = 1e-6  # spread of the landmarks in pixels, and scale of a fit, below which there is nothing to fit


def fit_similarity(landmarks: npt.ArrayLike, template: str | Template, fit: Fit = "image") -> Floats:
    """Fit the photo-to-crop transformation of each face.

    Args:
        landmarks: (N, 5, 2), x y in 0-based pixel centres of the photo.
        template: a name in `TEMPLATES`, or a template.
        fit: where the squared distances are measured. `image`: in the photo, as MATLAB's cp2tform does it for
            SphereFace (template to photo, then inverted); `template`: in the crop, as Umeyama (IEEE PAMI 13-4, 1991),
            scikit-image and the ArcFace pipelines do it. Both agree on the rotation and on the middle of the landmarks;
            the first magnifies more, by 1 / r^2, where r <= 1 is the correlation of the landmarks with the template.

    Returns:
        float64 (N, 2, 3): matrices from photo to crop, for column vectors (x, y, 1).

    Raises:
        UsageError: wrong shape, unknown template or fit.
        PhotoError: landmarks that are not finite, coincide, or only fit as a mirror image.
    """
    target = find_template(template).points
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise UsageError(f"expected shape (N, 5, 2), got {points.shape}", where="landmarks")
    if fit not in get_args(Fit):
        raise UsageError(f"no fit is called '{fit}'", where="fit", remedy=f"use {' or '.join(get_args(Fit))}")
    _refuse(~np.isfinite(points).all((1, 2)), "are not finite")
    source, goal = points[..., 0] + 1j * points[..., 1], target[:, 0] + 1j * target[:, 1]
    source_mean, goal_mean = source.mean(1), goal.mean()
    source, goal = source - source_mean[:, None], goal - goal_mean
    spread = (abs(source) ** 2).sum(1)
    _refuse(spread < _LEAST**2, "all lie on one point")
    common = (source.conj() * goal).sum(1)  # of both fits; 0 when only a mirror image fits
    _refuse(abs(common) < _LEAST * np.sqrt(spread * (abs(goal) ** 2).sum()), "do not look like a face")
    turn = (abs(goal) ** 2).sum() / common.conj() if fit == "image" else common / spread
    shift = goal_mean - turn * source_mean
    rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    return np.moveaxis(np.array(rows, np.float64), -1, 0)


def _refuse(bad: npt.ArrayLike, reason: str) -> None:
    faces = np.atleast_1d(bad)
    if faces.any():
        which = f"landmarks of face {int(np.flatnonzero(faces)[0])}" if len(faces) > 1 else "landmarks"
        raise PhotoError(reason, where=which, remedy="leave this face out")
