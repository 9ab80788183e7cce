"""Crops cut out of photos."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from sfplus.alignment.similarity import Fit, fit_similarity
from sfplus.alignment.templates import DEFAULT_TEMPLATE, TEMPLATES, Template, find_template
from sfplus.errors import PhotoError, UsageError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_CENTRE_HEIGHT, _CENTRE_OFFSET = 0.52, 0.03  # see centre_crop
Interpolation = Literal["bilinear", "area", "antialiased"]
Border = Literal["black", "replicate"]

_INTERPOLATIONS = get_args(Interpolation)
_BORDERS = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}
_OPENCV_MAX_SIDE = 32_000  # cv2.warpAffine refuses photos with a side of 32,767 pixels or more


def warp(
    photo: Pixels,
    matrix: npt.ArrayLike,
    template: str | Template = DEFAULT_TEMPLATE,
    interpolation: Interpolation = "bilinear",
    border: Border = "black",
) -> Pixels:
    """Sample a crop from a photo.

    The defaults are those of MATLAB's imtransform: bilinear interpolation, black outside the photo.

    Args:
        photo: uint8 RGB (H, W, 3).
        matrix: (2, 3), from photo to crop, 0-based pixel centres (see `fit_similarity`).
        template: gives the size of the crop.
        interpolation: the method where the photo has more pixels than the crop. `bilinear`: only the 4 pixels around
            each position count; `area`: the photo is first shrunk by means over squares, by the largest whole number
            that leaves at least as many pixels as the crop has; `antialiased`: the photo is first blurred by a Gaussian
            with a standard deviation of half a pixel of the crop, less that of the photo's pixels.
        border: pixels outside the photo, `black` or `replicate` (the nearest pixel of the border).

    Returns:
        uint8 RGB (template.height, template.width, 3).

    Raises:
        UsageError: If a shape or dtype is wrong, the matrix has no inverse, or the interpolation or border is unknown.
    """
    if interpolation not in _INTERPOLATIONS:
        raise _unsupported("interpolation", interpolation, _INTERPOLATIONS)
    if border not in _BORDERS:
        raise _unsupported("border", border, _BORDERS)
    size = find_template(template)
    forward = np.array(matrix, np.float64)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise UsageError(f"expected uint8 (H, W, 3), got {photo.dtype} {photo.shape}", where="photo")
    if forward.shape != (2, 3):
        raise UsageError(f"expected shape (2, 3), got {forward.shape}", where="matrix")
    (a, b, x), (c, d, y) = forward.tolist()
    area = abs(a * d - b * c)  # pixels of the crop per pixel of the photo
    if not (1e-18 <= area < math.inf and math.isfinite(x + y)):
        raise UsageError("has no inverse", where="matrix")
    shrink = area**-0.5  # side of a pixel of the crop, in pixels of the photo
    smoothed = interpolation != "bilinear" and shrink > 1
    if max(photo.shape) > _OPENCV_MAX_SIDE or smoothed:
        photo, forward = _visible_part(photo, forward, size, 2 + round(2 * shrink) if smoothed else 2)
    if smoothed:
        if interpolation == "area":
            photo, forward = _shrink(photo, forward, int(shrink))
        else:
            photo = _blur(photo, shrink)
    target = (size.width, size.height)
    crop = cv2.warpAffine(photo, forward, target, flags=cv2.INTER_LINEAR, borderMode=_BORDERS[border])
    return np.asarray(crop, np.uint8)


def _unsupported(setting: str, value: str, choices: Iterable[str]) -> UsageError:
    return UsageError(f"'{value}' is not supported", where=setting, remedy=f"use {', '.join(choices)}")


def _shrink(photo: Pixels, forward: Floats, factor: int) -> tuple[Pixels, Floats]:
    """Replace squares of factor x factor pixels by their means and adapt the matrix; border pixels are repeated."""
    bottom, right = -photo.shape[0] % factor, -photo.shape[1] % factor
    padded = cv2.copyMakeBorder(photo, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    size = padded.shape[1] // factor, padded.shape[0] // factor
    shrunk = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
    scale = forward[:, :2]
    shift = forward[:, 2:] + scale @ np.full((2, 1), (factor - 1) / 2)
    return np.asarray(shrunk, np.uint8), np.hstack([scale * factor, shift])


def _blur(photo: Pixels, shrink: float) -> Pixels:
    sigma = 0.5 * np.sqrt(shrink**2 - 1)
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)


def _visible_part(photo: Pixels, forward: Floats, size: Template, margin: int) -> tuple[Pixels, Floats]:
    """Cut the part of a photo that a crop shows, with a margin in pixels, and adapt the matrix."""
    corners = np.array([[0, 0], [size.width, 0], [0, size.height], [size.width, size.height]]).T
    positions = np.linalg.solve(forward[:, :2], corners - forward[:, 2:])
    limits = np.array([[photo.shape[1]], [photo.shape[0]]])
    first = np.clip(np.floor(positions.min(1, keepdims=True)) - margin, 0, limits - 1).astype(int)
    last = np.clip(np.ceil(positions.max(1, keepdims=True)) + margin + 1, first + 1, limits).astype(int)
    (left, top), (right, bottom) = first[:, 0], last[:, 0]
    moved = np.hstack([forward[:, :2], forward[:, :2] @ first + forward[:, 2:]])
    return np.ascontiguousarray(photo[top:bottom, left:right][:_OPENCV_MAX_SIDE, :_OPENCV_MAX_SIDE]), moved


def align(
    photo: Pixels,
    landmarks: npt.ArrayLike,
    template: str | Template = DEFAULT_TEMPLATE,
    fit: Fit = "source",
    interpolation: Interpolation = "bilinear",
    border: Border = "black",
) -> Pixels:
    """Cut one face out of a photo, with its landmarks at the points of a template.

    With the defaults this is the crop of SphereFace's face_align_demo.m before compression. MATLAB fits 1-based
    landmarks to a 1-based template and samples with pixel 1 first; `Detector` and `TEMPLATES` are both shifted by one
    pixel to 0-based coordinates, so the sampled positions are the same. Use the same fit for training and testing.

    Args:
        photo: uint8 RGB (H, W, 3).
        landmarks: (5, 2), x y in 0-based pixel centres, one row of `Faces.landmarks`.
        template: a name in `TEMPLATES`, or a template.
        fit: `source`, `image` or `template`, see `fit_similarity`.
        interpolation: `bilinear`, `area` or `antialiased`, see `warp`.
        border: `black` or `replicate`, see `warp`.

    Returns:
        uint8 RGB (template.height, template.width, 3).

    Raises:
        UsageError: If a shape is wrong, or the template, fit, interpolation or border unknown.
        PhotoError: If the landmarks allow no fit.
    """
    points = np.asarray(landmarks)
    if points.shape != (5, 2):
        raise UsageError(f"expected shape (5, 2), got {points.shape}", where="landmarks")
    return warp(photo, fit_similarity(points[None], template, fit)[0], template, interpolation, border)


def centre_crop(photo: Pixels, template: str | Template = DEFAULT_TEMPLATE) -> Pixels:
    """Cut the middle of a photo, for photos in which no face was detected although they show one.

    The region has the aspect ratio of the template and no rotation. Its height is 0.52 of the photo's smaller side, and
    its centre is 0.03 of that side above the centre of the photo. These are medians over 1,000 photos of LFW (250x250):
    their aligned sphereface-112x96 crops have a height of 130.0 px and a centre of (125.5, 117.2).

    Args:
        photo: uint8 RGB (H, W, 3).
        template: a name in `TEMPLATES`, or a template.

    Returns:
        uint8 RGB (template.height, template.width, 3).

    Raises:
        UsageError: If the shape or dtype is wrong, or the template unknown.
    """
    size = find_template(template)
    height, width = photo.shape[:2]
    side = max(1, min(height, width))
    scale = size.height / (_CENTRE_HEIGHT * side)
    x, y = (width - 1) / 2, (height - 1) / 2 - _CENTRE_OFFSET * side
    shift_x, shift_y = (size.width - 1) / 2 - scale * x, (size.height - 1) / 2 - scale * y
    return warp(photo, [[scale, 0, shift_x], [0, scale, shift_y]], size)


def narrow_crop(crop: Pixels, name: str = "crop") -> Pixels:
    """Cut a 112x112 crop to the middle 112x96, the part that the narrower template shows of the same face.

    Args:
        crop: uint8 RGB (112, 112, 3), aligned to `arcface-112x112`.
        name: of the crop, for the message.

    Returns:
        uint8 RGB (112, 96, 3), contiguous.

    Raises:
        PhotoError: If the crop has another size.
    """
    wide, narrow = TEMPLATES["arcface-112x112"], TEMPLATES["sphereface-112x96"]
    if crop.shape[:2] != (wide.height, wide.width):
        raise PhotoError(f"is {crop.shape[0]}x{crop.shape[1]}, not {wide.size}", where=name)
    left = (wide.width - narrow.width) // 2
    return np.ascontiguousarray(crop[:, left : left + narrow.width])
