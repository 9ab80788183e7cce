"""The geometry of a drawn head: a stack of ellipses with a relief, and its projection into the camera.

A head is a stack of horizontal ellipses: at height y its surface is (a(y) sin u, y, m(y) + d(y) cos u + relief), where
u is the angle around the head, 0 in front. Colours are maps over (y, u) that `cast` projects into the image, so that
the nose of a turned head moves relative to the eyes as that of a real head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.portraits.parameters import AnyFloats, Floats

TOP, BOTTOM = -1.75, 2.25  # range of y of the profiles
STEPS = 1601


def ramp(low: float, high: float, value: AnyFloats) -> Floats:
    """Return a smooth step from 0 at `low` to 1 at `high`, which may be smaller than `low`."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth


def bump(x: AnyFloats, y: AnyFloats, at: tuple[float, float], size: tuple[float, float]) -> Floats:
    """Return a Gaussian of height 1 at `at` with standard deviations `size`; for x (H, W), y may be (H, 1)."""
    down = (y - np.float32(at[1])) / np.float32(size[1])
    value = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    near = slice(None)
    if y.shape[-1] == 1:  # only the rows in which it is visible
        rows = np.flatnonzero(np.abs(down) < 5)
        near = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0)
    across = (x[near] - np.float32(at[0])) / np.float32(size[0])
    down = down[near]
    value[near] = np.exp(-0.5 * (across * across + down * down))
    return value


def cloud(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Floats:
    """Return smooth noise of about [-1, 1] with (rows, columns) cells over a map (H, W)."""
    small = rng.uniform(-1, 1, cells).astype(np.float32)
    return np.asarray(cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass(frozen=True)
class Surface:
    """The ellipses of a surface, sampled at y = TOP..BOTTOM.

    Attributes:
        half: (1601,) float32 half widths.
        depth: (1601,) float32 half depths.
        middle: (1601,) float32 centres along z.
    """

    half: Floats
    depth: Floats
    middle: Floats


@dataclass(frozen=True)
class Sheet:
    """The layout of a map over (y, u): `rows` x `columns` samples of y in [top, bottom] and u in [-turn, turn]."""

    rows: int
    columns: int
    top: float
    bottom: float
    turn: float

    def grid(self) -> tuple[Floats, Floats]:
        """Return the y of each row (rows, 1) and the u of each column (1, columns)."""
        y = np.linspace(self.top, self.bottom, self.rows, dtype=np.float32)[:, None]
        return y, np.linspace(-self.turn, self.turn, self.columns, dtype=np.float32)[None]

    def locate(self, u: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the fractional columns and rows of points of the surface, for `cv2.remap`."""
        column = (u + np.float32(self.turn)) * np.float32((self.columns - 1) / (2 * self.turn))
        row = (y - np.float32(self.top)) * np.float32((self.rows - 1) / (self.bottom - self.top))
        return column, row


SKIN = Sheet(rows=250, columns=286, top=-1.35, bottom=1.30, turn=1.9)
HAIR = Sheet(rows=240, columns=250, top=-1.60, bottom=2.15, turn=2.3)


@dataclass(frozen=True)
class Pose:
    """The rotation of a head, radians; positive yaw moves the nose to larger x, positive pitch moves it down."""

    yaw: float
    pitch: float

    def project(self, point: Floats) -> Floats:
        """Return points (..., 3) of the head in camera coordinates (..., 3); the camera looks along z."""
        sy, cy, sp, cp = np.sin(self.yaw), np.cos(self.yaw), np.sin(self.pitch), np.cos(self.pitch)
        turn = np.array([[cy, 0, sy], [-sy * sp, cp, cy * sp], [-sy * cp, -sp, cy * cp]], np.float32)
        rotated: Floats = point @ turn.T
        return rotated

    def unproject(self, direction: Floats) -> Floats:
        """Return a direction (3,) of the camera in coordinates of the head."""
        rotated: Floats = self.project(np.eye(3, dtype=np.float32)).astype(np.float32) @ direction
        return rotated


def _index(y: Floats) -> NDArray[np.int32]:
    """Return the index of the nearest sample of a profile."""
    index = (y - np.float32(TOP)) * np.float32((STEPS - 1) / (BOTTOM - TOP)) + np.float32(0.5)
    return np.asarray(np.clip(index, 0, STEPS - 1), np.int32)


def at_height(profile: Floats, y: Floats | float) -> Floats:
    """Return the values of a profile at heights y, from the nearest samples."""
    values: Floats = profile[_index(np.asarray(y, np.float32))]
    return values


def cast(
    surface: Surface, pose: Pose, x: Floats, y: Floats, relief: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Intersect the rays of the camera with a surface.

    Args:
        surface: the stack of ellipses.
        pose: the rotation of the head.
        x: (H, W) camera coordinates in head units.
        y: (H, W) camera coordinates in head units.
        relief: (250, 286) offset along z over `SKIN`.

    Returns:
        u and y of the surface, and the distance to its outline in head units, positive inside; each (H, W) float32.
    """
    sy, cy, sp, cp = (np.float32(f(a)) for a in (pose.yaw, pose.pitch) for f in (np.sin, np.cos))
    reach = np.hypot(surface.half * cy, surface.depth * sy)
    solid = surface.half > 1e-3
    heights = np.linspace(TOP, BOTTOM, STEPS, dtype=np.float32)
    ends = heights[solid][[0, -1]]
    reach = np.where(solid, reach, -8 * np.maximum(ends[0] - heights, heights - ends[1])).astype(np.float32)
    lean = np.arctan2(surface.depth * sy, surface.half * cy).astype(np.float32)
    slope = np.float32(1) / np.sqrt(1 + np.gradient(reach, heights[1] - heights[0]) ** 2).astype(np.float32)
    table = np.stack([reach, lean, surface.half, surface.depth, surface.middle, slope]).astype(np.float32)
    height: AnyFloats = y
    bulge: AnyFloats | np.float32 = np.float32(0)
    if relief is not None or abs(sp) > 0:
        front = at_height(surface.depth + surface.middle, y)
        height = (y - front * sp * cy) / cp
    for step in range(3):
        near = np.take(table, _index(height), 1)
        offset = x - (near[4] + bulge) * sy
        across = offset / np.maximum(near[0], np.float32(1e-3))
        u = np.arcsin(np.clip(across, -1, 1)) - near[1]
        if step == 2:
            break
        if relief is not None:
            column, row = SKIN.locate(u, height)
            bulge = np.asarray(
                cv2.remap(relief, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
            )
        depth = (near[4] + bulge + near[3] * np.cos(u)) * cy - near[2] * np.sin(u) * sy
        before, height = height, (y - depth * sp) / cp
        unsure = np.abs(height - before)
    inside = (near[5] * (near[0] - np.abs(offset))) - np.clip(
        unsure - np.float32(0.08), 0, None
    )  # grazing rays do not converge
    return u, height, inside


def normals(points: Floats) -> tuple[Floats, Floats]:
    """Return outward unit normals and downward unit tangents (3, H, W) of the points (3, H, W) of a sheet."""
    down, round_ = (np.gradient(points, axis=axis).astype(np.float32) for axis in (1, 2))
    (a, b, c), (d, e, f) = down, round_
    out = np.stack([c * e - b * f, a * f - c * d, b * d - a * e])
    long, wide = (np.maximum(np.sqrt((v * v).sum(0)), np.float32(1e-9)) for v in (down, out))
    return out / wide, down / long
