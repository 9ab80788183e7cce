"""The image plane of a drawn portrait and the surroundings of the face: background, neck, clothes, ears, glasses."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sfplus.datasets.portraits.geometry import Pose, bump, cloud, ramp
from sfplus.datasets.portraits.head import Head
from sfplus.datasets.portraits.parameters import AnyFloats, Floats, Person, Shot, planes

SIDE = 250  # pixels
CREEP = planes([0.36, 0.22, 0.17])  # how far skin scatters light beyond the edge of a shadow


@dataclass(frozen=True)
class Frame:
    """A map from camera coordinates in head units to pixels: rotation, scale and shift.

    Attributes:
        roll: rotation, radians.
        scale: pixels per head unit.
        origin: (2,) pixels.
    """

    roll: float
    scale: float
    origin: Floats

    def pixels(self, points: Floats) -> Floats:
        """Return the pixel coordinates (..., 2) of camera coordinates (..., 2)."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        turn = np.array([[cos, sin], [-sin, cos]], np.float32)
        pixels: Floats = (points @ turn * np.float32(self.scale) + self.origin).astype(np.float32)
        return pixels

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """Return the rows and columns, even numbers, of the image that contain a rectangle of camera coordinates."""
        corners = self.pixels(np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float32))
        low = np.clip(np.floor(corners.min(0) / 2).astype(int) * 2, 0, SIDE)
        high = np.clip(np.ceil(corners.max(0) / 2).astype(int) * 2 + 2, low, SIDE)
        return slice(low[1], high[1]), slice(low[0], high[0])

    def coordinates(self, window: tuple[slice, slice], step: int = 1) -> tuple[Floats, Floats]:
        """Return the camera coordinates x, y (H / step, W / step) of the squares of `step` pixels of a window."""
        rows, columns = (
            np.arange(s.start, s.stop, step, dtype=np.float32) + np.float32(0.5 * step - 0.5) for s in window
        )
        x, y = (
            (columns - self.origin[0])[None] / np.float32(self.scale),
            (rows - self.origin[1])[:, None] / np.float32(self.scale),
        )
        cos, sin = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        return x * cos + y * sin, y * cos - x * sin

    def light(self, shot: Shot) -> Floats:
        """Return the direction (3,) to the light in this frame."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        x, y, z = shot.light
        return np.array([x * cos + y * sin, y * cos - x * sin, z], np.float32)


def double(plane: AnyFloats) -> Floats:
    """Return a plane (H, W) at twice the resolution (2 H, 2 W)."""
    size = (2 * plane.shape[1], 2 * plane.shape[0])
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR), np.float32)


def lay(image: Floats, window: tuple[slice, slice], colour: Floats, opacity: Floats) -> None:
    """Blend a layer over the image, in place."""
    under = image[:, *window]
    under += opacity * (colour - under)


def background(shot: Shot) -> Floats:
    """Return a blurred room: two colours, large blobs, sometimes bands or lamps."""
    rng = np.random.default_rng(shot.texture)
    tones = (
        np.clip(rng.choice([50, 100, 150, 195]) + rng.normal(0, 26, (3, 1)) + rng.normal(0, 17, (3, 3)), 8, 240) / 255
    ) ** 2
    slope = rng.normal(0, 1, 2)
    y, x = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
    tones = tones[..., None, None]
    mix = np.clip(0.5 + 0.4 * (slope[0] * x + slope[1] * y), 0, 1)
    room = tones[0] * mix + tones[1] * (1 - mix)
    blobs = np.clip(cloud(rng, (64, 64), (4, 4)) + 0.4 * cloud(rng, (64, 64), (9, 9)), 0, 1)
    room = room * (1 - 0.7 * blobs) + tones[2] * 0.7 * blobs
    if rng.random() < 0.3:
        bands = np.sin(x * rng.uniform(3, 9) + rng.uniform(0, 6)) > 0.2
        room = room * (1 - 0.3 * bands)
    for _ in range(int(rng.integers(0, 7)) if rng.random() < 0.4 else 0):
        at = rng.uniform(-1, 1, 2)
        lamp = ramp(1.15, 0.85, np.hypot(x - at[0], y - at[1]) / np.float32(rng.uniform(0.08, 0.2)))
        room = room + lamp * rng.uniform(0.05, 0.3) * planes([1, 0.85, 0.6])
    room = room * (shot.ambient * 0.8 + 0.4 * shot.light_colour)
    return np.stack(
        [cv2.resize(v, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for v in room.astype(np.float32)]
    ).clip(0.002)


def body(image: Floats, person: Person, shot: Shot, frame: Frame) -> None:
    """Draw neck, shoulders and clothes with the shadow of the head, in place."""
    window = frame.window(-4, 0.4, 4, 4)
    if window[0].start >= window[0].stop:
        return
    x, y = frame.coordinates(window, 2)  # at half resolution, since everything here is soft
    light, side = frame.light(shot), np.abs(x)
    soft = 1.2 / frame.scale
    waist = person.neck * (1 + 0.10 * np.clip(1.1 - y, 0, 1) ** 2)
    wide = waist + 1.2 * np.clip(y - 1.22, 0, 2) ** 1.7
    turn = np.clip(x / wide, -1, 1)
    round_ = np.sqrt(1 - turn * turn * 0.9)
    facing = turn * light[0] + round_ * max(float(light[2]), 0.1) + 0.12 * light[1]
    wrapped = np.clip((facing + CREEP) / (1 + CREEP), 0, None)
    tendon = 0.10 * np.exp(-0.5 * ((side - 0.30 + 0.2 * (y - 0.9)) / 0.05) ** 2) * ramp(0.8, 1.3, y)
    shade = 0.22 + 0.78 * ramp(0.92, 1.75, y + 0.30 * light[1] + 0.15 * x * light[0])
    skin = person.skin * planes([0.97, 0.93, 0.92]) * (1 - tendon)
    skin = skin * (shot.ambient * (0.45 + 0.4 * shade) + shot.light_colour * wrapped * shade)
    lay(image, window, np.stack([double(v) for v in skin]), ramp(soft, -soft, double(side - wide)))

    broad = 1.55 if person.feminine else 1.8
    shoulder = 1.36 + 0.20 * side + 0.9 * np.clip(side - broad + 0.35, 0, 4) ** 2
    if shot.cloth_style == 0:
        collar = 1 - np.hypot(x / (person.neck * 1.18), (y - 1.28) / 0.34)
    elif shot.cloth_style == 1:
        collar = np.minimum(1.0 - side / (0.02 + 0.75 * np.clip(2.05 - y, 0, 1)), 2.05 - y)
    else:
        collar = 1 - np.hypot(x / (person.neck * 1.02), (y - 1.1) / 0.42)
    rng = np.random.default_rng(shot.texture + 1)
    folds = cloud(rng, x.shape, (5, 9)) * 0.16 + cloud(rng, x.shape, (3, 16)) * 0.12
    turn = np.clip(x / 2.1, -1, 1)
    facing = np.clip(0.25 + 0.75 * (turn * light[0] + 0.8 * light[2] - 0.35 * light[1]) + folds, 0.05, None)
    shade = 0.55 + 0.45 * ramp(1.25, 1.85, y + 0.2 * side)
    cloth = shot.cloth * (shot.ambient + shot.light_colour * facing) * shade
    cloth = cloth * (1 - 0.38 * np.exp(-0.5 * ((collar + 0.12) / 0.035) ** 2) - 0.25 * ramp(-0.10, 0.0, collar))
    covered = ramp(-soft, soft, double(y - shoulder)) * ramp(soft, -soft, double(collar))
    lay(image, window, np.stack([double(v) for v in cloth]), covered)


def ear(image: Floats, head: Head, shot: Shot, pose: Pose, frame: Frame, side: int) -> None:
    """Draw an ear in place, a shaded shell between its root on the skull and its rim."""
    p = head.person
    root = head.point(side * p.width * 0.985, 0.10)
    ends = pose.project(np.stack([root, [side * (p.width + p.ear), 0.06, -0.22]]).astype(np.float32))[:, :2]
    across = ends[1] - ends[0]
    if across[0] * side < 0.02:
        return
    centre = ends[0] + 0.42 * across
    window = frame.window(centre[0] - 0.3, centre[1] - 0.4, centre[0] + 0.3, centre[1] + 0.4)
    x, y = frame.coordinates(window)
    f = (y - centre[1]) / 0.27
    e = (x - centre[0]) / (0.62 * across[0]) + 0.25 * f + 0.18 * f * f
    radius = np.hypot(e, f)
    light = frame.light(shot)
    facing = np.clip(
        0.30 + 0.75 * (0.45 * side * light[0] + 0.7 * light[2]) + 0.35 * np.clip(e, -1, 1) * side * light[0], 0.12, 1.2
    )
    tone = 0.80 + 0.30 * bump(radius, radius, (0.85, 0.85), (0.18, 9)) - 0.55 * bump(e, f, (-0.15, 0.12), (0.32, 0.36))
    skin = p.skin * planes([1.0, 0.80, 0.76]) * tone
    lit = skin * (shot.ambient * 0.75 + shot.light_colour * facing * 0.9)
    edge_ = 0.27 * frame.scale
    lay(image, window, lit, np.clip((1 - radius) * edge_ * min(1.0, abs(float(across[0])) * 4) + 0.5, 0, 1))


def glasses(image: Floats, head: Head, shot: Shot, pose: Pose, frame: Frame) -> None:
    """Draw the frame of a pair of glasses, in place."""
    p = head.person
    plane = float(head.point(0, 0.05)[2]) + 0.03
    angle = np.linspace(0, 2 * np.pi, 49)
    power = 1.0 if p.glasses == 1 else 0.45
    wide, high = (0.225, 0.20) if p.glasses == 1 else (0.26, 0.165)
    cos, sin = np.cos(angle), np.sin(angle)
    ring = np.stack([wide * np.sign(cos) * np.abs(cos) ** power, high * np.sign(sin) * np.abs(sin) ** power], -1)
    away = max(p.eye_x * 1.04, wide + 0.045)
    flat = [ring + np.array([side * away, 0.05]) for side in (-1, 1)]
    inner = away - wide
    flat.append(np.array([[-inner, 0.0], [-inner * 0.5, -0.03], [inner * 0.5, -0.03], [inner, 0.0]]))
    lines = [np.concatenate([f, plane - 0.35 * f[:, :1] ** 2], -1) for f in flat]
    for side in (-1, 1):
        if side * pose.yaw < 0.12:
            hinge = [side * (away + wide), -0.02, plane - 0.35 * (away + wide) ** 2]
            lines.append(np.array([hinge, [side * (p.width + 0.02), -0.04, 0.1]]))
    mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    for line in lines:
        spots = frame.pixels(pose.project(line.astype(np.float32))[:, :2]) * 2 + 0.5
        thick = 3 if p.glasses == 1 else 5
        cv2.polylines(mask, [np.round(spots * 16).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
    opacity = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(0.9 / 255)
    tint = planes([0.02, 0.017, 0.016]) if p.texture % 3 else planes([0.16, 0.07, 0.03])
    lay(image, (slice(None), slice(None)), tint * (0.5 + 0.5 * shot.light_colour), opacity)
