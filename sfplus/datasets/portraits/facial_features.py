"""Eyes, brows and mouth of a drawn head, painted over `SKIN` for the expression of a photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfplus.datasets.portraits.geometry import SKIN, bump, ramp
from sfplus.datasets.portraits.head import Head
from sfplus.datasets.portraits.parameters import AnyFloats, Floats, Person, Shot, planes

_WHITE = planes([0.56, 0.51, 0.48])
_TEETH = planes([0.86, 0.82, 0.74])
_LASH = planes([0.012, 0.009, 0.008])


@dataclass(frozen=True)
class Painted:
    """The skin with eyes, brows and mouth, as maps over `SKIN`."""

    albedo: Floats  # (3, H, W)
    glint: Floats  # (H, W) reflections of wet surfaces, independent of the shading


def _over(canvas: Floats, colour: AnyFloats, opacity: AnyFloats) -> None:
    """Blend a colour over the canvas (3, H, W), in place."""
    canvas += opacity * (colour - canvas)


def _window(head: Head, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
    """Return the rows and columns of `SKIN` that contain a rectangle of the front view."""
    half = 0.98 * float(head.person.width)
    u = np.arcsin(np.clip(np.array([left, right], np.float32) / (0.85 * half), -1, 1)).astype(np.float32)
    column, row = SKIN.locate(u, np.array([top, bottom], np.float32))
    rows = slice(max(0, int(row[0])), min(SKIN.rows, int(row[1]) + 2))
    return rows, slice(max(0, int(column[0])), min(SKIN.columns, int(column[1]) + 2))


def _eye(head: Head, shot: Shot, side: int, colour: Floats, glint: Floats) -> None:
    """Paint an eye in place: crease, lids, eyeball, iris, lashes, and the reflection of the light."""
    p = head.person
    reach = 1.75 * p.eye_size
    centre = side * p.eye_x
    view = _window(head, centre - reach, centre + reach, -0.24, 0.20)
    canvas, shine = colour[:, *view], glint[view]
    dx, dy = (head.x[view] - np.float32(centre)) * side, head.y[view[0]]
    size, cos, sin = np.float32(p.eye_size), np.float32(np.cos(p.eye_tilt)), np.float32(np.sin(p.eye_tilt))
    along, up = (dx * cos - dy * sin) / size, (dx * sin + dy * cos) / size
    arch = np.clip(1 - along * along, 0, 1)
    opening = np.float32(0.5 * p.eye_open * shot.eyes)
    peak = np.sqrt(arch) * (0.35 + 0.65 * arch)
    upper = -opening * peak * (1 - 0.12 * along)
    lower = (0.30 + 0.06 * p.eye_open) * (1 - 0.28 * max(0.0, shot.smile)) * arch**0.8
    soft = 0.075

    lid = np.float32(p.crease) + 0.12
    fold = up - (
        -opening * np.clip(1.05 - 0.8 * along * along, 0, 1) - lid * np.clip(1.15 - 0.55 * along * along, 0, 1)
    )
    ends = ramp(1.45, 0.9, np.abs(along))
    _over(canvas, canvas * 0.42, 0.62 * np.exp(-0.5 * (fold / 0.06) ** 2) * ends)
    _over(
        canvas,
        canvas * planes([0.72, 0.64, 0.66]),
        0.5 * ramp(-0.25, 0.05, fold) * ramp(0.05, -0.05, up - upper) * ends,
    )
    pouch = up - lower - 0.30
    _over(canvas, canvas * planes([0.66, 0.56, 0.56]), (0.22 + 0.3 * p.age) * np.exp(-0.5 * (pouch / 0.07) ** 2) * ends)
    rim = ramp(0.16, 0.02, up - lower) * ramp(-0.05, 0.0, up - lower) * ramp(1.05, 0.8, np.abs(along))
    _over(canvas, canvas * planes([1.05, 0.78, 0.76]), 0.5 * rim)

    inside = ramp(-soft, soft, up - upper) * ramp(soft, -soft, up - lower) * ramp(1.02, 0.97, np.abs(along))
    ball = _WHITE * (1 - 0.55 * ramp(0.35, 1.05, np.abs(along)) - 0.45 * ramp(0.32, 0.0, up - upper))
    ball[1:] *= 1 - 0.28 * ramp(-0.6, -1.0, along)
    gaze_x, gaze_y = side * float(shot.gaze[0]), float(shot.gaze[1]) - 0.04
    right, down = along - gaze_x, up - gaze_y
    radius = np.sqrt(right * right + down * down) / np.float32(p.iris_size)
    angle = np.arctan2(down, right)
    rays = 1 + 0.22 * np.sin(13 * angle + p.texture % 7) * np.sin(5 * angle + 1) + 0.5 * down / p.iris_size
    disc = p.iris * 1.25 * (rays * (0.55 + 0.75 * ramp(0.35, 0.75, radius)))
    disc = disc * (1 - 0.82 * ramp(0.72, 1.0, radius))
    disc = disc * (1 - 0.55 * ramp(0.30, 0.0, up - upper))
    _over(ball, np.clip(disc, 0.004, 1), ramp(1.08, 0.92, radius))
    _over(ball, _LASH * 0.6, ramp(0.50, 0.36, radius))
    _over(canvas, ball, inside)

    thick = (0.085 if p.feminine else 0.05) * (1 + 0.5 * along)
    line = np.exp(-0.5 * ((up - upper + 0.3 * thick) / thick) ** 2) * ramp(1.12, 0.9, np.abs(along))
    wing = 0.9 if p.feminine else 0.72
    _over(canvas, _LASH + 0.06 * p.hair, wing * line)
    below = np.exp(-0.5 * ((up - lower) / 0.045) ** 2) * ramp(1.05, 0.8, np.abs(along))
    _over(canvas, canvas * 0.35, (0.55 if p.feminine else 0.38) * below)
    tear = bump(along, up, (-0.95, 0.02), (0.09, 0.09))
    _over(canvas, planes([0.42, 0.17, 0.15]), 0.6 * tear)
    spot = (gaze_x + 0.16 * side * float(shot.light[0]) * 1.3, gaze_y + 0.20 * float(shot.light[1]) - 0.07)
    shine += inside * (
        0.95 * bump(along, up, spot, (0.06, 0.06)) + 0.05 * bump(along, up, (gaze_x, gaze_y + 0.2), (0.2, 0.1))
    )


def _brow(head: Head, shot: Shot, side: int, colour: Floats) -> None:
    """Paint an eyebrow in place, a tapered arc of short hairs."""
    p = head.person
    height = p.brow_y + shot.brow_raise
    left, right = sorted((side * (p.eye_x - 0.30), side * (p.eye_x + 0.32)))
    view = _window(head, left, right, -height - 0.24, -height + 0.14)
    x, y = head.x[view] * side, head.y[view[0]]
    along = (x - np.float32(p.eye_x - 1.02 * p.brow_length)) / np.float32(2 * p.brow_length)
    clipped = np.clip(along, 0, 1)
    inner = shot.brow_raise * 0.4 * (1 - clipped)
    middle = (
        -height
        - inner
        - p.brow_arch * (np.sin(np.pi * clipped**1.35) - 0.5)
        - p.brow_tilt * p.brow_length * (along - 0.4)
    )
    thick = p.brow_thick * (0.75 + 0.55 * np.sin(np.pi * np.clip(clipped * 0.9 + 0.15, 0, 1))) * ramp(1.12, 0.55, along)
    across = (y - middle) / np.maximum(thick, 0.006)
    body = np.exp(-0.5 * np.abs(across) ** 2.6) * ramp(-0.06, 0.16, along) * ramp(1.06, 0.86, along)
    opacity = np.clip(p.brow_dark * body * (0.95 + 0.28 * head.grain[view]), 0, 0.97)
    _over(colour[:, *view], p.hair * 0.42 + 0.002, opacity)


def _mouth(head: Head, shot: Shot, colour: Floats, glint: Floats) -> None:
    """Paint the lips in place, and the teeth of an open mouth."""
    p, smile = head.person, shot.smile
    width = mouth_corners(p, shot)[1][0]
    rise = 0.055 * smile
    view = _window(head, -width - 0.12, width + 0.12, p.mouth_y - 0.22, p.mouth_y + 0.36)
    canvas, shine = colour[:, *view], glint[view]
    x, y = head.x[view], head.y[view[0]]
    along = x / np.float32(width)
    side = np.abs(along)
    arch = np.clip(1 - along * along, 0, 1)
    middle = (
        p.mouth_y
        + 0.35 * rise
        - (1.35 * rise + 0.014) * np.clip(side, 0, 1.1) ** 1.7
        + 0.012 * np.exp(-0.5 * (along / 0.16) ** 2)
    )
    gap = np.float32(shot.mouth_open) * arch**0.7
    thin = 1 - 0.22 * max(0.0, smile)
    peaks = 0.82 + 0.30 * np.exp(-0.5 * ((side - 0.24) / 0.17) ** 2) - p.bow * 0.7 * np.exp(-0.5 * (along / 0.10) ** 2)
    inner_top, inner_low = middle - 0.25 * gap, middle + 0.75 * gap
    top = inner_top - p.upper_lip * thin * arch**0.75 * peaks
    low = inner_low + p.lower_lip * thin * np.sqrt(arch) * (0.55 + 0.45 * arch)
    soft = 0.014
    ends = ramp(1.03, 0.96, side)
    outer = ramp(-soft, soft, y - top) * ramp(1.5 * soft, -1.5 * soft, y - low) * ends
    upper_part = ramp(0.012, -0.012, y - middle)
    streaks = 1 + 0.10 * head.grain[view]
    tone = (0.95 - 0.25 * upper_part) * streaks
    tone = tone + 0.22 * bump(along, y - low, (0, -0.55 * p.lower_lip), (0.42, 0.30 * p.lower_lip))
    tone = tone - 0.20 * ramp(0.035, 0.0, low - y) * (1 - upper_part)
    _over(canvas, canvas * 0.66, 0.55 * bump(along, y - low, (0, 0.045), (0.45, 0.022)))
    _over(canvas, p.lip * tone, (0.9 if p.feminine else 0.74) * outer)
    if shot.mouth_open > 0.004:
        hole = ramp(-0.008, 0.008, y - inner_top) * ramp(0.008, -0.008, y - inner_low) * ends
        inside = np.broadcast_to(planes([0.055, 0.014, 0.014]), canvas.shape).copy()
        edge = inner_top + 0.02 + 0.055 * ramp(0.0, 0.7, np.full_like(side, smile)) + 0.006 * np.cos(along * 26)
        teeth = (
            ramp(0.010, -0.006, y - edge) * ramp(0.95, 0.55, side) * (0.85 - 0.28 * np.abs(np.cos(along * 13)) ** 12)
        )
        _over(inside, _TEETH * (1 - 0.45 * side * side), teeth)
        _over(canvas, inside, hole)
    seam = np.exp(-0.5 * ((y - inner_top) / 0.009) ** 2) * ramp(1.08, 0.97, side)
    _over(canvas, canvas * planes([0.26, 0.18, 0.18]), 0.85 * seam)
    corner = bump(side, y - middle, (1.03, 0), (0.06, 0.016))
    _over(canvas, canvas * 0.35, 0.6 * corner)
    wet = 0.16 if p.feminine else 0.06
    shine += (
        wet * outer * bump(along - 0.25 * shot.light[0], y - low, (0, -0.62 * p.lower_lip), (0.22, 0.18 * p.lower_lip))
    )


def mouth_corners(person: Person, shot: Shot) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (x, y) of the left and the right corner of the mouth in the front view."""
    width = person.mouth_width * (1 + 0.17 * shot.smile - 0.6 * shot.mouth_open)
    height = person.mouth_y - 0.055 * shot.smile - 0.014
    return (-width, height), (width, height)


def paint(head: Head, shot: Shot) -> Painted:
    """Paint the expression of a photo on a copy of the bare skin."""
    colour = head.albedo.copy()
    glint = np.zeros(colour.shape[1:], np.float32)
    for side in (-1, 1):
        _eye(head, shot, side, colour, glint)
        _brow(head, shot, side, colour)
    _mouth(head, shot, colour, glint)
    if shot.smile > 0:
        middle = mouth_corners(head.person, shot)[0][1] - 0.13
        view = _window(head, -0.6, 0.6, middle - 0.34, middle + 0.34)
        away, y = np.abs(head.x[view]), head.y[view[0]]
        edge = head.person.nose_width * 0.62 + 0.08 + 0.55 * np.clip(y - head.person.nose_y + 0.06, 0, 0.4)
        depth = np.exp(-0.5 * ((away - edge) / 0.022) ** 2) * bump(y * 0, y, (0, middle), (1, 0.085))
        colour[:, *view] *= 1 - (0.22 + 0.2 * head.person.age) * shot.smile * depth
    return Painted(colour, glint)
