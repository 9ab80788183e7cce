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

_CENTRE_HEIGHT, _CENTRE_UP = 0.52, 0.03  # see centre_crop
Interpolation = Literal["bilinear", "area", "antialiased"]
Border = Literal["black", "replicate"]

_INTERPOLATIONS = get_args(Interpolation)
_BORDERS = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}
_OPENCV_SIDE = 32_000  # cv2.warpAffine refuses photos with a side of 32,767 pixels or more


def warp(
    photo: Pixels,
    matrix: npt.ArrayLike,
    template: str | Template = DEFAULT_TEMPLATE,
    interpolation: Interpolation = "bilinear",
    border: Border = "black",
) -> Pixels:
    """Sample a crop; by default bilinearly, what lies outside the photo black, as with MATLAB's imtransform.

    Args:
        photo: uint8 RGB (H, W, 3).
        matrix: (2, 3), from photo to crop, 0-based pixel centres (see `fit_similarity`).
        template: gives the size of the crop.
        interpolation: how the photo is made smaller, where it has more pixels than the crop. `bilinear`: the 4 pixels
            around each position, others are passed over; `area`: the photo is shrunk first, by the whole number that
            leaves at least as many pixels as the crop has, each the mean of a square; `antialiased`: it is blurred
            first, by a Gaussian with a standard deviation of half a pixel of the crop, less that of the photo's pixels.
        border: what lies outside the photo: `black`, or `replicate`: as the nearest pixel of the border.

    Returns:
        uint8 RGB (template.height, template.width, 3).

    Raises:
        UsageError: wrong shapes or dtype, a matrix without inverse, or an unknown interpolation or border.
    """
    if interpolation not in _INTERPOLATIONS:
        raise _unknown("interpolation", interpolation, _INTERPOLATIONS)
    if border not in _BORDERS:
        raise _unknown("border", border, _BORDERS)
    size = find_template(template)
    forward = np.array(matrix, np.float64)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise UsageError(f"expected uint8 (H, W, 3), got {photo.dtype} {photo.shape}", where="photo")
    if forward.shape != (2, 3):
        raise UsageError(f"expected shape (2, 3), got {forward.shape}", where="matrix")
    (a, b, x), (c, d, y) = forward.tolist()
    area = abs(a * d - b * c)  # of a pixel of the photo, pixels of the crop
    if not (1e-18 <= area < math.inf and math.isfinite(x + y)):
        raise UsageError("has no inverse", where="matrix")
    shrink = area**-0.5  # pixels of the photo to one of the crop
    smoothed = interpolation != "bilinear" and shrink > 1
    if max(photo.shape) > _OPENCV_SIDE or smoothed:
        photo, forward = _part(photo, forward, size, 2 + round(2 * shrink) if smoothed else 2)
    if smoothed:
        photo, forward = (
            _shrink(photo, forward, int(shrink)) if interpolation == "area" else (_blur(photo, shrink), forward)
        )
    target = (size.width, size.height)
    crop = cv2.warpAffine(photo, forward, target, flags=cv2.INTER_LINEAR, borderMode=_BORDERS[border])
    return np.asarray(crop, np.uint8)


def _unknown(setting: str, given: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"there is no '{given}'", where=setting, remedy=f"use {', '.join(known)}")


def _shrink(photo: Pixels, forward: Floats, by: int) -> tuple[Pixels, Floats]:
    """Means of squares of `by` x `by` pixels, those at the lower right border repeated; the matrix follows."""
    padded = cv2.copyMakeBorder(photo, 0, -photo.shape[0] % by, 0, -photo.shape[1] % by, cv2.BORDER_REPLICATE)
    shrunk = cv2.resize(padded, (padded.shape[1] // by, padded.shape[0] // by), interpolation=cv2.INTER_AREA)
    scale = forward[:, :2]
    return np.asarray(shrunk, np.uint8), np.hstack([scale * by, forward[:, 2:] + scale @ np.full((2, 1), (by - 1) / 2)])


def _blur(photo: Pixels, shrink: float) -> Pixels:
    deviation = 0.5 * np.sqrt(shrink**2 - 1)
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE), np.uint8)


def _part(photo: Pixels, forward: Floats, size: Template, margin: int) -> tuple[Pixels, Floats]:
    """The part of a photo that the crop can see, and some pixels around it, with the matrix moved along."""
    corners = np.array([[0, 0], [size.width, 0], [0, size.height], [size.width, size.height]]).T
    seen = np.linalg.solve(forward[:, :2], corners - forward[:, 2:])
    limits = np.array([[photo.shape[1]], [photo.shape[0]]])
    first = np.clip(np.floor(seen.min(1, keepdims=True)) - margin, 0, limits - 1).astype(int)
    last = np.clip(np.ceil(seen.max(1, keepdims=True)) + margin + 1, first + 1, limits).astype(int)
    (left, top), (right, bottom) = first[:, 0], last[:, 0]
    moved = np.hstack([forward[:, :2], forward[:, :2] @ first + forward[:, 2:]])
    return np.ascontiguousarray(photo[top:bottom, left:right][:_OPENCV_SIDE, :_OPENCV_SIDE]), moved


def align(
    photo: Pixels,
    landmarks: npt.ArrayLike,
    template: str | Template = DEFAULT_TEMPLATE,
    fit: Fit = "image",
    interpolation: Interpolation = "bilinear",
    border: Border = "black",
) -> Pixels:
    """Cut one face out of a photo so that its landmarks come to lie on the template's points.

    With the defaults this is the crop of SphereFace's face_align_demo.m before it is compressed. MATLAB fits 1-based
    landmarks to a 1-based template and samples with pixel 1 first; `Detector` and `TEMPLATES` have both moved by one
    pixel to 0-based coordinates, so the sampled positions are the same. Use the same fit for training and for testing.

    Args:
        photo: uint8 RGB (H, W, 3).
        landmarks: (5, 2), x y in 0-based pixel centres, one row of `Faces.landmarks`.
        template: a name in `TEMPLATES`, or a template.
        fit: `image` or `template`, see `fit_similarity`.
        interpolation: `bilinear`, `area` or `antialiased`, see `warp`.
        border: `black` or `replicate`, see `warp`.

    Returns:
        uint8 RGB (template.height, template.width, 3).

    Raises:
        UsageError: wrong shapes, unknown template, fit, interpolation or border.
        PhotoError: landmarks that allow no fit.
    """
    points = np.asarray(landmarks)
    if points.shape != (5, 2):
        raise UsageError(f"expected shape (5, 2), got {points.shape}", where="landmarks")
    return warp(photo, fit_similarity(points[None], template, fit)[0], template, interpolation, border)


def centre_crop(photo: Pixels, template: str | Template = DEFAULT_TEMPLATE) -> Pixels:
    """The middle of a photo as a crop, for photos in which no face was found but one must be there.

    The region has the template's aspect and no rotation; its height is 0.52 of the photo's smaller side and its middle
    lies 0.03 of that side above the photo's: the medians of the regions that the aligned sphereface-112x96 crops of
    1,000 photos of LFW (250 x 250) come from are a height of 130.0 px and a middle of (125.5, 117.2).

    Args:
        photo: uint8 RGB (H, W, 3).
        template: a name in `TEMPLATES`, or a template.

    Returns:
        uint8 RGB (template.height, template.width, 3).

    Raises:
        UsageError: wrong shape or dtype, or unknown template.
    """
    size = find_template(template)
    height, width = photo.shape[:2]
    side = max(1, min(height, width))
    scale = size.height / (_CENTRE_HEIGHT * side)
    x, y = (width - 1) / 2, (height - 1) / 2 - _CENTRE_UP * side
    shifts = (size.width - 1) / 2 - scale * x, (size.height - 1) / 2 - scale * y
    return warp(photo, [[scale, 0, shifts[0]], [0, scale, shifts[1]]], size)


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
