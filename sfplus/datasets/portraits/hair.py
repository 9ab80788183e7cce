"""The hair of a drawn head: a shell of strands around the skull, cut at the hairline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sfplus.datasets.portraits.geometry import BOTTOM, HAIR, STEPS, TOP, Surface, at_height, cloud, normals, ramp
from sfplus.datasets.portraits.parameters import Floats, Person, Shot, draw_person


def hair_surface(person: Person, volume: float) -> Surface:
    """Return the shell of the hair: the skull enlarged by `volume`; long hair hangs straight down to the tips."""
    y = np.linspace(TOP, BOTTOM, STEPS)
    crown = np.clip(1 - np.abs(np.minimum(y + 0.22, 0) / (0.98 + 0.8 * volume)) ** 2.3, 0, 1) ** 0.48
    end = max(person.hair_length, 0.85)
    hang = np.clip((y + 0.2) / (end + 0.2), 0, 1)
    full = (1 + 0.10 * volume / 0.1 * np.sin(np.pi * hang) * (person.hair_length > 0.5)) * (1 - 0.30 * hang**5)
    half = (person.width + 0.75 * volume) * crown * full
    depth = (0.87 + volume) * crown * (1 - 0.5 * hang**3)
    return Surface(*(v.astype(np.float32) for v in (half, depth, np.zeros_like(y))))


@dataclass(frozen=True)
class Hair:
    """The hair of a person, the same in all photos, as maps over the rows of `HAIR` that the hair reaches."""

    surface: Surface
    strands: Floats  # (H, W) about [0, 1]
    normal: Floats  # (3, H, W)
    tangent: Floats  # (3, H, W) along the strands


@lru_cache(maxsize=4)
def build_hair(seed: int, person: int) -> Hair:
    """Return the shape and the strands of the hair of a person."""
    p = draw_person(seed, person)
    rng = np.random.default_rng(p.texture + 2)
    surface = hair_surface(p, p.hair_volume)
    y, u = HAIR.grid()
    half, deep = at_height(surface.half, y), at_height(surface.depth, y)
    normal, tangent = normals(
        np.stack([half * np.sin(u), np.broadcast_to(y, (HAIR.rows, HAIR.columns)), deep * np.cos(u)])
    )
    shape = (HAIR.rows, HAIR.columns)
    flat = (
        0.5 + 0.26 * cloud(rng, shape, (5, 75)) + 0.26 * cloud(rng, shape, (9, 190)) + 0.22 * cloud(rng, shape, (5, 24))
    )
    curl = p.wave * (0.05 * np.sin(9 * y + 3 * cloud(rng, shape, (4, 9))) + 0.05 * cloud(rng, shape, (16, 14)))
    sweep = 0.55 * np.tanh((u - p.parting) * 2.0) * ramp(-1.2, -0.2, y) * np.clip(np.cos(u), 0, 1)
    if p.wave > 0.75 and p.texture % 2:  # tight curls
        flat = 0.5 + 0.42 * cloud(rng, shape, (70, 90)) + 0.22 * cloud(rng, shape, (24, 30))
    column, row = HAIR.locate(
        (u - sweep + curl).astype(np.float32), np.broadcast_to(y, shape) + np.float32(0.02) * curl
    )
    strands = cv2.remap(
        flat, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    tangent[2] += np.float32(0.35) * (strands - 0.5)
    used = np.count_nonzero(y < max(p.hair_length, 0.65) + 0.35)  # rows below are never covered, even by a ragged edge
    return Hair(surface, np.asarray(strands, np.float32)[:used], normal[:, :used].copy(), tangent[:, :used].copy())


def edge(person: Person, shot: Shot, u: Floats) -> Floats:
    """Return the height y (1, W) at which the hair ends, for angles u (1, W) around the head."""
    p, turn = person, np.abs(u)
    rng = np.random.default_rng(p.texture + 3)
    jag = np.interp(u[0], np.linspace(-3.2, 3.2, 90), rng.uniform(-1, 1, 90)).astype(np.float32)[None]
    wide = np.interp(u[0], np.linspace(-3.2, 3.2, 22), rng.uniform(-1, 1, 22)).astype(np.float32)[None]
    parting = p.parting + shot.parting_shift
    line = (
        p.hairline
        + shot.hairline_shift
        - 1.1 * p.recede * np.exp(-0.5 * ((turn - 0.55) / 0.30) ** 2)
        - (0.2 + 3 * p.recede) * p.recede
    )
    line = line + 0.05 * (1 - np.cos(u)) + 0.02 * jag
    line = line - ramp(-0.95, -1.05, line)  # bald to the crown
    if p.fringe > 0.3:
        low = -0.40 + 0.10 * np.clip(np.abs(u - parting), 0, 1) + 0.035 * wide + 0.03 * jag
        line = line + p.fringe * ramp(1.2, 0.8, turn) * (low - line)
    elif p.hair_length > 0.2:
        line = line + 0.16 * ramp(0.15, 0.9, np.abs(u - parting)) * (p.fringe + 0.3)
    if p.hair_length > 0.3:
        tips = p.hair_length + 0.05 * jag + 0.05 * wide
        return np.asarray(line + ramp(0.80 - 0.1 * p.fringe, 1.16, turn) * (tips - line), np.float32)
    side = p.hair_length + 0.02 + 0.03 * jag
    line = line + ramp(0.75, 1.22, turn) * (side - line)
    line = line + ramp(1.26, 1.36, turn) * (-0.14 - line)
    return np.asarray(line + ramp(2.15, 2.3, turn) * (0.62 - line), np.float32)


def dye(hair: Hair, person: Person, shot: Shot) -> tuple[Floats, Floats]:
    """Return the unlit colour (3, H, W) and the opacity (H, W) of the hair in a photo."""
    y, u = HAIR.grid()
    y, line = y[: len(hair.strands)], edge(person, shot, u)
    ragged = line + (0.10 if person.hair_length > 0.3 else 0.06) * (hair.strands - 0.5)
    soft = 0.05 if person.hair_volume > 0.04 else 0.14
    opacity = ramp(soft, -soft, y - ragged)
    if person.hair_volume < 0.035:
        opacity = opacity * 0.9
    tone = 0.35 + 1.25 * np.clip(hair.strands, 0, 1.1) ** 1.5
    parting = person.parting + shot.parting_shift
    if person.fringe < 0.6 and person.hair_length > 0.06:
        furrow = np.exp(-0.5 * ((u - parting) / 0.035) ** 2) * ramp(line.min() - 0.35, line.min() - 0.05, y)
        tone = tone * (1 - 0.5 * furrow)
    tone = tone * (1 - 0.35 * ramp(0.5, 1.9, y))
    colour = (person.hair * shot.hair_tint) * tone
    return colour.astype(np.float32), opacity.astype(np.float32)
