"""The constant shape and skin of a drawn head: relief of the face, blush, freckles, moles, beard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sfplus.datasets.portraits.geometry import BOTTOM, SKIN, STEPS, TOP, Surface, at_height, bump, cloud, normals, ramp
from sfplus.datasets.portraits.parameters import Floats, Person, draw_person, linear, planes


def head_surface(person: Person) -> Surface:
    """Return the surface of the head of a person without its relief."""
    y = np.linspace(TOP, BOTTOM, STEPS)
    crown = np.clip(1 - np.abs(np.minimum(y + 0.25, 0) / 0.95) ** 2.3, 0, 1) ** 0.48
    down = np.clip((y + 0.25) / (person.chin + 0.25), 0, 1)
    half = person.width * crown * (1 - down**person.jaw) ** (1 / person.taper)
    half += 0.5 * person.cheek * np.exp(-0.5 * ((y - 0.22) / 0.16) ** 2)
    middle = 0.28 * np.clip((y - 0.2) / 0.9, 0, 1) ** 1.5
    depth = crown * (0.86 - middle) * (1 - down**7) ** 0.5
    return Surface(*(v.astype(np.float32) for v in (half, depth, middle)))


@dataclass(frozen=True)
class Head:
    """The head of a person, the same in all photos, as maps over `SKIN`."""

    person: Person
    surface: Surface
    x: Floats  # (H, W) front-view x
    y: Floats  # (H, 1)
    u: Floats  # (1, W)
    relief: Floats
    depth: Floats  # z of the surface
    normal: Floats  # (3, H, W)
    hollow: Floats  # ambient light that reaches the skin, in [0, 1]
    albedo: Floats  # (3, H, W)
    gloss: Floats
    grain: Floats  # (H, W) upright streaks, about [-1, 1], for brows and lips

    def point(self, x: float, y: float) -> Floats:
        """Return the point (3,) of the surface that is at (x, y) in the front view."""
        u = float(np.arcsin(np.clip(x / at_height(self.surface.half, y), -1, 1)))
        column, row = SKIN.locate(np.array([[u]], np.float32), np.array([[y]], np.float32))
        return np.array([x, y, cv2.remap(self.depth, column, row, cv2.INTER_LINEAR)[0, 0]], np.float32)


def _relief(person: Person, x: Floats, y: Floats, u: Floats) -> Floats:
    """Return nose, eye sockets, brow, cheeks, lips, chin and wrinkles as an offset (H, W) along z."""
    p, side = person, np.abs(x)
    tip = p.nose_y - 0.085
    down = np.clip((y + 0.12) / (tip + 0.12), 0, 1)
    fall = ramp(p.nose_y + 0.035, p.nose_y - 0.15, y + 0.05 * np.clip(side / p.nose_width, 0, 1.5) ** 2)
    ridge = 0.82 * p.nose_high * (0.22 + 0.78 * down**1.5) * ramp(-0.32, -0.02, y) * fall
    broad = p.nose_bridge * 0.85 + 0.12 * p.nose_width * down**4
    out = ridge * np.exp(-0.5 * (x / broad) ** 2)
    out += (0.03 + 0.28 * p.nose_high) * bump(x, y, (0, tip), (0.45 * p.nose_width, 0.065))
    out += (0.30 * p.nose_high + 0.035) * bump(
        side, y, (0.66 * p.nose_width, p.nose_y - 0.045), (0.3 * p.nose_width, 0.05)
    )
    out -= 0.075 * bump(side, y, (p.eye_x, -0.06), (0.17, 0.10))
    out -= 0.05 * bump(side, y, (p.eye_x - 1.15 * p.eye_size, -0.01), (0.06, 0.07))
    out += 0.03 * bump(side, y, (p.eye_x, 0.0), (0.13, 0.075))
    out += (0.03 if p.feminine else 0.055) * bump(side, y, (p.eye_x - 0.02, -p.brow_y + 0.02), (0.24, 0.06))
    out += (0.04 + p.cheek) * bump(side, y, (0.44, 0.27), (0.17, 0.12))
    out -= 0.05 * (1.2 - 8 * p.cheek) * bump(side, y, (0.50, 0.68), (0.13, 0.2))
    lips = p.mouth_y
    out += 0.05 * bump(x, y, (0, lips), (0.9 * p.mouth_width, 0.12))
    out -= 0.035 * bump(x, y, (0, lips + p.lower_lip + 0.055), (0.6 * p.mouth_width, 0.035))
    out += 0.06 * bump(x, y, (0, p.chin - 0.15), (0.17, 0.09))
    out -= 0.014 * bump(x, y, (0, 0.5 * (p.nose_y + lips - p.upper_lip) + 0.02), (0.035, 0.08))
    fold = side - (0.62 * p.nose_width + 0.06 + 0.55 * np.clip(y - p.nose_y + 0.06, 0, 0.4))
    out -= (0.006 + 0.022 * p.age) * np.exp(-0.5 * (fold / 0.025) ** 2) * bump(side * 0, y, (0, lips - 0.14), (1, 0.12))
    lines = np.sin((y + 0.03 * np.cos(5 * x)) * 62) * bump(x, y, (0, -0.52), (0.28, 0.09))
    out += 0.0035 * max(0.0, p.age - 0.25) * lines
    bags = bump(side, y, (p.eye_x - 0.02, 0.13), (0.10, 0.022))
    out -= 0.016 * p.age * bags
    calm: Floats = cv2.GaussianBlur((out * np.clip(np.cos(u) * 1.6, 0, 1)).astype(np.float32), (0, 0), 1.3)
    return calm


def _beard(person: Person, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Return the opacity (H, W) of the beard, which also covers the lips, since they are painted later."""
    p, side = person, np.abs(x)
    fine = cloud(rng, x.shape, (125, 143)) * 0.5
    under = p.mouth_width + 0.06
    moustache = ramp(under + 0.03, under - 0.05, side + 0.25 * np.abs(y - p.mouth_y)) * ramp(
        p.nose_y + 0.01, p.nose_y + 0.06, y
    )
    moustache = moustache * ramp(p.mouth_y + 0.05, p.mouth_y, y)
    chin = ramp(0.75 * under + 0.05, 0.75 * under - 0.06, side) * ramp(p.mouth_y + 0.05, p.mouth_y + 0.13, y)
    slope = (p.mouth_y + 0.02 - 0.12) / (0.95 * p.width - under)
    edge = np.clip(p.mouth_y + 0.02 - (side - under) * slope, -0.1, None)
    full = ramp(-0.05, 0.08, y - edge) * ramp(0.1, 0.2, side + 2 * np.clip(y - p.mouth_y - 0.08, 0, 1))
    complete = np.maximum(np.maximum(moustache, full), 0.8 * chin)
    choice = {
        0: complete * 0,
        1: complete * 0.34,
        2: moustache * 0.85,
        3: np.maximum(moustache, chin) * 0.82,
        4: complete * 0.9,
    }
    opacity: Floats = np.clip(choice[p.beard] * (0.85 + 0.55 * fine), 0, 0.96).astype(np.float32)
    return opacity


def _albedo(person: Person, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Return the colour (3, H, W) of the skin with blush, freckles, moles and beard, in linear light."""
    p, side, shape = person, np.abs(x), x.shape
    mottle = 1 + 0.05 * cloud(rng, shape, (14, 16)) + 0.022 * cloud(rng, shape, (90, 100))
    blush = 0.8 * bump(side, y, (0.42, 0.32), (0.16, 0.13)) + 0.8 * bump(x, y, (0, p.nose_y - 0.06), (0.13, 0.08))
    blush = blush + 0.35 * bump(x, y, (0, p.chin - 0.14), (0.16, 0.08))
    pale = float(np.clip(p.skin.mean() * 2.2, 0.3, 1.0))
    colour = p.skin * mottle * (1 - blush * planes([-0.02, 0.20, 0.17]) * pale)
    tired = (0.10 + 0.16 * p.age) * bump(side, y, (p.eye_x - 0.03, 0.11), (0.13, 0.05))
    tired = tired + 0.13 * bump(side, y, (p.eye_x, -0.10), (0.18, 0.06))
    colour = colour * (1 - tired * planes([0.75, 1.0, 0.85]))
    if p.freckles > 0:
        dots = np.clip(cloud(rng, shape, (92, 105)) * 2.6 - 1.3, 0, 1) * bump(side, y, (0.25, 0.24), (0.30, 0.16))
        colour = colour * (1 - p.freckles * dots * planes([0.35, 0.5, 0.58]))
    for mole in p.moles:
        spot = ramp(1.25, 0.75, np.hypot(x - mole[0], y - mole[1]) / mole[2])
        colour = colour * (1 - spot * planes([0.62, 0.74, 0.76]))
    nostril = bump(side, y, (0.47 * p.nose_width, p.nose_y + 0.004), (0.20 * p.nose_width, 0.020))
    wing = np.hypot((side - 0.66 * p.nose_width) / (0.46 * p.nose_width), (y - p.nose_y + 0.045) / 0.085) - 1
    groove = (
        np.exp(-0.5 * (wing / 0.13) ** 2)
        * ramp(0.8 * p.nose_width, 1.0 * p.nose_width, side)
        * ramp(0.03, -0.01, y - p.nose_y)
    )
    dark = np.clip(0.85 * nostril + 0.42 * groove, 0, 1)
    colour = colour * (1 - dark * planes([0.80, 0.90, 0.90]))
    beard = _beard(p, x, y, rng)
    return np.asarray(colour * (1 - beard) + beard * (p.hair * 0.9 + linear([20, 16, 14])), np.float32)


@lru_cache(maxsize=4)
def build_head(seed: int, person: int) -> Head:
    """Return the head of a person; it is cached for the next photos of the same person."""
    p = draw_person(seed, person)
    rng = np.random.default_rng(p.texture)
    surface = head_surface(p)
    y, u = SKIN.grid()
    half, deep, middle = (at_height(v, y) for v in (surface.half, surface.depth, surface.middle))
    x = (half * np.sin(u)).astype(np.float32)
    relief = _relief(p, x, y, u)
    depth = (middle + deep * np.cos(u) + relief).astype(np.float32)
    pores = np.float32(0.0016 * (1 + p.age)) * cloud(rng, x.shape, (120, 140))
    normal, _ = normals(np.stack([x, np.broadcast_to(y, x.shape), depth + pores]))
    soft = cv2.GaussianBlur(depth, (0, 0), 9) - depth
    hollow = np.clip(1 - 4.5 * np.clip(soft - 0.004, 0, None) * np.clip(np.cos(u) * 2, 0, 1), 0.35, 1)
    oily = 0.5 + 0.7 * bump(x, y, (0, -0.5), (0.35, 0.16)) + bump(x, y, (0, 0.2), (0.09, 0.3))
    gloss = oily + 0.5 * bump(np.abs(x), y, (0.42, 0.2), (0.12, 0.08))
    grain = 0.6 * cloud(rng, x.shape, (34, 158)) + 0.6 * cloud(rng, x.shape, (110, 158))
    colour, dim, shiny = _albedo(p, x, y, rng), hollow.astype(np.float32), gloss.astype(np.float32)
    return Head(p, surface, x, y, u, relief, depth, normal, dim, colour, shiny, grain)
