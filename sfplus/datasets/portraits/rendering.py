"""Lighting and layers of a drawn portrait: combine head, hair and surroundings into one image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sfplus.datasets.portraits.facial_features import mouth_corners, paint
from sfplus.datasets.portraits.geometry import HAIR, SKIN, Pose, Sheet, cast, ramp
from sfplus.datasets.portraits.hair import Hair, build_hair, dye, edge, hair_surface
from sfplus.datasets.portraits.head import Head, build_head
from sfplus.datasets.portraits.parameters import Floats, Person, Shot
from sfplus.datasets.portraits.scene import CREEP, Frame, background, body, double, ear, glasses, lay


def _project(sheet: Sheet, maps: list[Floats], u: Floats, y: Floats) -> Floats:
    """Sample the maps of a sheet for a window of the image, twice per pixel in horizontal direction.

    Args:
        sheet: the layout of the maps.
        maps: maps (H, W) over the sheet.
        u: angle around the head at every second pixel of the window.
        y: height on the head at every second pixel of the window.

    Returns:
        One plane of the window per map, stacked.
    """
    rows, columns = 2 * u.shape[0], 2 * u.shape[1]
    column, row = (cv2.resize(v, (2 * columns, rows), interpolation=cv2.INTER_LINEAR) for v in sheet.locate(u, y))
    soft = cv2.GaussianBlur(cv2.merge(maps), (1, 3), 0.5)  # in place of two samples per pixel in vertical direction
    drawn = cv2.remap(soft, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.stack(cv2.split(cv2.resize(drawn, (columns, rows), interpolation=cv2.INTER_AREA)))


def _coverage(inside: Floats, scale: float) -> Floats:
    """Return the opacity of the pixels of a window from the distance to an outline at every second pixel."""
    opacity: Floats = np.clip(double(inside) * np.float32(scale) + np.float32(0.5), 0, 1)
    return opacity


def _dot(vectors: Floats, direction: Floats) -> Floats:
    """Return the dot product (H, W) of a map of vectors (3, H, W) with a direction (3,)."""
    x, y, z = (np.float32(v) for v in direction)
    product: Floats = vectors[0] * x + vectors[1] * y + vectors[2] * z
    return product


def _cast_shadow(head: Head, light: Floats) -> Floats:
    """Return the shadow of nose and brows over `SKIN`, in [0, 1], marched along the light at half resolution."""
    depth = cv2.resize(head.depth, (SKIN.columns // 2, SKIN.rows // 2), interpolation=cv2.INTER_AREA)
    pixel = (SKIN.rows // 2) / (SKIN.bottom - SKIN.top)
    flat = max(0.25, float(np.hypot(light[0], light[1])))
    blocked = np.zeros_like(depth)
    for step in (0.03, 0.06, 0.10, 0.15, 0.21):
        move = np.array([[1, 0, -light[0] / flat * step * pixel], [0, 1, -light[1] / flat * step * pixel]], np.float32)
        shifted = cv2.warpAffine(
            depth, move, depth.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        blocked = np.maximum(blocked, shifted - depth - step * max(0.15, float(light[2])) / flat)
    soft = cv2.GaussianBlur(np.clip(blocked * 30, 0, 1), (0, 0), 1.6)
    large = cv2.resize(soft, (SKIN.columns, SKIN.rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large * np.clip(np.cos(head.u) * 3, 0, 1), np.float32)


def _lit_skin(head: Head, shot: Shot, pose: Pose, frame: Frame) -> list[Floats]:
    """Return the painted skin in the light of the photo, three planes of linear light over `SKIN`."""
    painted = paint(head, shot)
    light = pose.unproject(frame.light(shot))
    middle = light + pose.unproject(np.array([0, 0, 1], np.float32))
    facing = _dot(head.normal, light)
    lit_part = 1 - 0.72 * _cast_shadow(head, light)
    cover = ramp(0.30, -0.06, head.y - edge(head.person, shot, head.u)) * (
        0.55 if head.person.hair_volume > 0.035 else 0.2
    )
    visible = head.hollow * (1 - cover)
    sky = visible * (0.82 - 0.16 * head.normal[1])
    key = lit_part * (0.4 + 0.6 * visible) * (1 - 0.4 * cover)
    sheen = np.clip(_dot(head.normal, middle / np.linalg.norm(middle)), 0, 1) ** 2
    for _ in range(3):
        sheen = sheen * sheen
    shine = 0.075 * head.gloss * sheen * key + 0.85 * painted.glint * (0.5 + 0.5 * lit_part)
    dark = 1 - np.clip((facing + 0.36) / 1.36, 0, 1)
    bounce = np.array([0.10, 0.045, 0.03], np.float32)
    lit = []
    for plane, creep, warm, lamp, room in zip(
        painted.albedo, CREEP.flat, bounce, shot.light_colour.flat, shot.ambient.flat, strict=True
    ):
        wrapped = np.clip((facing + creep) * (lamp / (1 + creep)), 0, None)
        lit.append(plane * (sky * room + key * wrapped + dark * warm) + shine * lamp)
    return lit


@dataclass(frozen=True)
class _Shell:
    """The part of the shell of the hair that is visible.

    Attributes:
        window: rows and columns of the image.
        u: angle around the head at every second pixel of the window.
        height: height on the head at every second pixel.
        coverage: opacity of the pixels of the window.
    """

    window: tuple[slice, slice]
    u: Floats
    height: Floats
    coverage: Floats


def _shell(person: Person, shot: Shot, pose: Pose, frame: Frame) -> _Shell:
    surface = hair_surface(person, person.hair_volume + max(shot.volume_shift, -0.4 * person.hair_volume))
    radius = 0.25 + person.width + 1.6 * person.hair_volume
    window = frame.window(-radius, -1.5, radius, max(person.hair_length + 0.15, 0.7))
    u, height, inside = cast(surface, pose, *frame.coordinates(window, 2))
    return _Shell(window, u, height, _coverage(inside, frame.scale))


def _hair_behind(image: Floats, shell: _Shell, person: Person, shot: Shot) -> None:
    """Draw the inside of long hair behind the neck, or the short hair at the temples, in place."""
    dark = person.hair * shot.hair_tint * (0.22 * shot.light_colour + 0.5 * shot.ambient) * 0.6
    limit = person.hair_length if person.hair_length > 0.3 else -0.02
    lay(image, shell.window, dark, shell.coverage * ramp(limit - 0.03, limit - 0.15, double(shell.height)))


def _hair_in_front(
    image: Floats, shell: _Shell, hair: Hair, person: Person, shot: Shot, pose: Pose, frame: Frame
) -> None:
    """Draw the hair over the head, in place, brightest where strands are perpendicular to the mirror direction."""
    colour, opacity = dye(hair, person, shot)
    light = pose.unproject(frame.light(shot))
    middle = light + pose.unproject(np.array([0, 0, 1], np.float32))
    along = _dot(hair.tangent, middle / np.linalg.norm(middle))
    sheen = np.clip(1 - along * along, 0, 1) ** 2
    for _ in range(3):
        sheen = sheen * sheen
    wrapped = np.clip((_dot(hair.normal, light) + 0.35) / 1.35, 0, None)
    sky = 0.75 - 0.25 * hair.normal[1]
    gleam = 0.11 * sheen * wrapped * hair.strands
    lit = []
    for plane, lamp, room, base in zip(
        colour, shot.light_colour.flat, shot.ambient.flat, person.hair.flat, strict=True
    ):
        lit.append(plane * (sky * room + wrapped * lamp) + gleam * (lamp * (0.1 + 0.9 * np.sqrt(base))))
    planes = _project(HAIR, [*lit, opacity], shell.u, shell.height)
    lay(image, shell.window, planes[:3], planes[3] * shell.coverage)


def compose(seed: int, person: int, shot: Shot) -> tuple[Floats, Floats]:
    """Draw a photo.

    Returns:
        The image (3, 250, 250) in linear light, and the five landmarks (5, 2) in pixels.
    """
    head = build_head(seed, person)
    p, pose = head.person, Pose(shot.yaw, shot.pitch)
    frame = Frame(shot.roll, shot.scale, shot.centre)
    pivot = frame.pixels(np.array([0.10 * np.sin(shot.yaw), 0.75], np.float32))
    lean = Frame(0.3 * shot.roll, shot.scale, np.zeros(2, np.float32))
    torso = Frame(lean.roll, shot.scale, pivot - lean.pixels(np.array([0, 0.75], np.float32)))
    image, shell = background(shot), _shell(p, shot, pose, frame)
    if p.hair_length > 0.3 or (p.recede < 0.1 and p.hair_volume > 0.03):
        _hair_behind(image, shell, p, shot)
    body(image, p, shot, torso)
    near = -1 if shot.yaw > 0 else 1
    ear(image, head, shot, pose, frame, -near)
    window = frame.window(-1.05, -1.45, 1.05, 1.45)
    u, height, inside = cast(head.surface, pose, *frame.coordinates(window, 2), head.relief)
    lay(image, window, _project(SKIN, _lit_skin(head, shot, pose, frame), u, height), _coverage(inside, shot.scale))
    ear(image, head, shot, pose, frame, near)
    if p.glasses and shot.glasses:
        glasses(image, head, shot, pose, frame)
    _hair_in_front(image, shell, build_hair(seed, person), p, shot, pose, frame)
    spots = [(-p.eye_x, 0.0), (p.eye_x, 0.0), (0.0, p.nose_y - 0.085), *mouth_corners(p, shot)]
    image *= np.float32(np.clip((0.30 / p.skin.mean()) ** 0.25, 0.92, 1.35))  # automatic exposure
    points = pose.project(np.stack([head.point(a, b) for a, b in spots]))[:, :2]
    return image, frame.pixels(points)
