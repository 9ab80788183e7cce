"""Random parameters of drawn portraits: the appearance of people, and the conditions of photos.

Lengths are in head units: the eye line is y = 0, y grows downwards, the crown is near -1.2 and the chin near +1.15.
Colours are RGB in linear light, in [0, 1], as arrays (3, 1, 1) that multiply planes (3, H, W).
The ranges were tuned by eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
AnyFloats = NDArray[np.floating[Any]]  # float32 at run time; the stubs of NumPy widen the type


@dataclass(frozen=True)
class Person:
    """The appearance of a person, the same in all photos."""

    feminine: bool
    age: float  # 0 young, 1 old
    skin: Floats
    width: float  # half width of the skull
    jaw: float  # exponent: 2 pointed, 4 square
    taper: float  # exponent: larger is fuller
    chin: float  # y of the chin
    cheek: float
    eye_x: float
    eye_size: float  # half width of one eye
    eye_open: float
    eye_tilt: float  # radians, outer corner up
    crease: float
    iris: Floats
    iris_size: float
    brow_y: float
    brow_thick: float
    brow_arch: float
    brow_tilt: float
    brow_length: float
    brow_dark: float
    nose_y: float  # y of the base of the nose
    nose_width: float
    nose_bridge: float
    nose_high: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    bow: float
    lip: Floats
    ear: float
    neck: float
    freckles: float
    moles: Floats  # (M, 3): x, y, radius
    beard: int  # 0 none, 1 stubble, 2 moustache, 3 goatee, 4 full
    glasses: int  # 0 none, 1 round, 2 rectangular
    hair: Floats
    hair_length: float  # y at which the hair ends at the sides
    hair_volume: float
    hairline: float  # y of the hairline on the forehead
    recede: float
    parting: float  # radians around the head
    wave: float
    fringe: float  # 0 none, 1 down to the brows
    texture: int  # seed of skin and hair texture


@dataclass(frozen=True)
class Shot:
    """The conditions of a photo; angles in radians, `scale` and `centre` in pixels."""

    roll: float
    yaw: float
    pitch: float
    scale: float  # pixels per head unit
    centre: Floats  # (2,) pixels, position of the origin of the head
    smile: float
    mouth_open: float
    brow_raise: float
    eyes: float  # factor on the opening of the eyes
    gaze: Floats  # (2,)
    light: Floats  # (3,) unit vector towards the light; x right, y down, z to the camera
    light_colour: Floats
    ambient: Floats
    hair_tint: Floats
    hairline_shift: float
    parting_shift: float
    volume_shift: float
    glasses: bool
    cloth: Floats
    cloth_style: int
    blur: float
    motion: float
    noise: float
    quality: int
    texture: int


_SKINS = np.array(  # sRGB, fair to deep
    [
        [246, 216, 196],
        [238, 200, 175],
        [226, 184, 152],
        [210, 164, 128],
        [186, 137, 100],
        [152, 105, 74],
        [117, 78, 55],
        [88, 58, 43],
    ]
)
_HAIRS = np.array(
    [
        [28, 23, 22],
        [48, 34, 27],
        [78, 52, 36],
        [112, 76, 48],
        [160, 118, 72],
        [205, 170, 116],
        [140, 66, 36],
        [96, 60, 44],
    ]
)
_IRISES = np.array(
    [[58, 36, 22], [86, 54, 30], [112, 82, 42], [92, 104, 62], [92, 122, 142], [112, 130, 138], [62, 98, 138]]
)


def planes(rgb: NDArray[np.generic] | list[float]) -> Floats:
    """Return three numbers as an array (3, 1, 1)."""
    return np.asarray(rgb, np.float32).reshape(3, 1, 1)


def linear(srgb: NDArray[np.generic] | list[int]) -> Floats:
    """Return 8-bit sRGB colours in linear light, with the gamma 2 of the renderer."""
    return planes(np.asarray(srgb, np.float32) / 255.0) ** 2


def _interpolate(table: NDArray[np.generic], row: float) -> Floats:
    """Return the colour at a fractional row of a table of sRGB colours, in linear light."""
    low = min(int(row), len(table) - 2)
    weight = row - low
    return linear(table[low] * (1 - weight) + table[low + 1] * weight)


@lru_cache(maxsize=64)
def draw_person(seed: int, person: int) -> Person:
    """Draw the appearance of a person, a function of the two numbers."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(person,)))
    u = rng.uniform
    feminine = bool(rng.random() < 0.5)
    tone = float(u(0, 7))
    age = float(rng.beta(1.3, 2.2))
    skin = _interpolate(_SKINS, tone) * planes(1 + rng.normal(0, 0.03, 3))
    dark = tone > 4.2
    hair_row = float(u(0, 1.2)) if dark else float(u(0, 5.9)) if rng.random() < 0.85 else 6.0
    hair = _interpolate(_HAIRS, hair_row) * float(u(0.85, 1.15))
    grey = max(0.0, age - 0.55) * float(u(0, 2.6))
    hair = hair * (1 - grey) + linear([172, 170, 168]) * grey
    iris_row = (
        float(u(0, 1.6)) if dark or (tone > 2.6 and rng.random() < 0.75) else float(rng.choice([u(0, 1.9), u(2, 6)]))
    )
    chin = float(u(1.06, 1.24))
    nose_y = float(u(0.44, 0.58))
    mouth_y = nose_y + (chin - nose_y) * float(u(0.33, 0.43))
    style = rng.random()
    if feminine:
        length = float(u(1.0, 2.0)) if style < 0.6 else float(u(0.55, 1.0)) if style < 0.85 else 0.12
    else:
        length = float(u(0.02, 0.2)) if style < 0.88 else float(u(0.7, 1.3))
    volume = float(u(0.06, 0.17)) if length > 0.5 else float(u(0.015, 0.13))
    recede = 0.0 if feminine or length > 0.3 else float(max(0.0, u(-0.25, 0.22) + 0.25 * age))
    fringe = float(u(0.6, 1.0)) if rng.random() < (0.35 if feminine else 0.14) else float(u(0, 0.25))
    volume = min(volume, 0.03) if recede > 0.1 else volume
    beard = 0 if feminine else int(rng.choice(5, p=[0.46, 0.2, 0.08, 0.1, 0.16]))
    lip_red = linear([178, 78, 84]) if feminine and rng.random() < 0.45 else linear([186, 106, 98])
    count = int(rng.integers(0, 4))
    moles = np.stack([u(-0.55, 0.55, count), u(0.15, 0.95, count), u(0.012, 0.026, count)], 1).astype(np.float32)
    return Person(
        feminine=feminine,
        age=age,
        skin=skin.astype(np.float32),
        width=float(u(0.70, 0.84)) * (0.98 if feminine else 1.02),
        jaw=float(u(2.0, 3.0)) if feminine else float(u(2.3, 3.9)),
        taper=float(u(1.7, 2.2)),
        chin=chin,
        cheek=float(u(0.0, 0.07)),
        eye_x=float(u(0.29, 0.385)),
        eye_size=float(u(0.145, 0.195)) * (1.04 if feminine else 0.98),
        eye_open=float(u(0.70, 1.2)) * (1.06 if feminine else 0.94),
        eye_tilt=float(u(-0.10, 0.17)),
        crease=float(u(0.08, 0.36)),
        iris=_interpolate(_IRISES, iris_row),
        iris_size=float(u(0.40, 0.47)),
        brow_y=float(u(0.20, 0.30)),
        brow_thick=float(u(0.022, 0.042)) if feminine else float(u(0.032, 0.062)),
        brow_arch=float(u(0.01, 0.10)),
        brow_tilt=float(u(-0.10, 0.16)),
        brow_length=float(u(0.185, 0.25)),
        brow_dark=float(u(0.55, 0.95)),
        nose_y=nose_y,
        nose_width=float(u(0.125, 0.225)) * (0.94 if feminine else 1.04),
        nose_bridge=float(u(0.05, 0.10)),
        nose_high=float(u(0.15, 0.27)),
        mouth_y=mouth_y,
        mouth_width=float(u(0.215, 0.325)),
        upper_lip=float(u(0.032, 0.078)) * (1.05 if feminine else 0.9),
        lower_lip=float(u(0.055, 0.112)) * (1.05 if feminine else 0.92),
        bow=float(u(0.1, 0.5)),
        lip=(lip_red * (0.25 + 0.9 * skin.mean()) * 0.6 + 0.4 * skin * planes([0.72, 0.42, 0.44])).astype(np.float32),
        ear=float(u(0.06, 0.13)),
        neck=float(u(0.37, 0.43)) if feminine else float(u(0.44, 0.53)),
        freckles=float(max(0.0, u(-1.6, 1.0))) if tone < 3 else 0.0,
        moles=moles,
        beard=beard,
        glasses=int(rng.choice(3, p=[0.82, 0.09, 0.09])),
        hair=np.clip(hair, 0.003, 0.8).astype(np.float32),
        hair_length=length,
        hair_volume=volume,
        hairline=float(u(-0.84, -0.62)),
        recede=recede,
        parting=float(u(-0.7, 0.7)),
        wave=float(max(0.0, u(-0.5, 1.0))),
        fringe=fringe,
        texture=int(rng.integers(2**31)),
    )


def draw_shot(seed: int, person: int, photo: int, roll: float | None, yaw: float | None) -> Shot:
    """Draw the conditions of a photo; `roll` and `yaw`, degrees, replace the random angles."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(person, photo)))
    u = rng.uniform
    drawn_roll = float(np.clip(rng.normal(0, 8), -25, 25)) if rng.random() < 0.8 else float(u(-25, 25))
    drawn_yaw = float(np.clip(rng.normal(0, 11), -28, 28))
    angle_x, angle_y = float(u(-1.15, 1.15)), float(u(-0.1, 0.75))
    light = [np.sin(angle_x) * np.cos(angle_y), -np.sin(angle_y), np.cos(angle_x) * np.cos(angle_y)]
    warm = float(rng.normal(0, 0.09))
    key = float(u(0.75, 1.25)) * np.array([1 + warm, 1 + float(rng.normal(0, 0.02)), 1 - warm])
    cool = float(rng.normal(0, 0.07))
    fill = float(u(0.20, 0.48)) * np.array([1 + cool, 1, 1 - cool])
    smile = float(rng.beta(1.3, 1.6)) * 1.2 - 0.02
    opened = float(u(0.03, 0.11)) if smile > 0.55 and rng.random() < 0.7 else float(max(0.0, u(-0.14, 0.08)))
    sharp = rng.random()
    return Shot(
        roll=float(np.deg2rad(drawn_roll if roll is None else roll)),
        yaw=float(np.deg2rad(drawn_yaw if yaw is None else yaw)),
        pitch=float(np.deg2rad(np.clip(rng.normal(0, 5), -11, 11))),
        scale=float(u(57, 74)),
        centre=np.array([125 + rng.normal(0, 5), 116 + rng.normal(0, 5)], np.float32),
        smile=smile,
        mouth_open=opened,
        brow_raise=float(rng.normal(0, 0.018)),
        eyes=float(u(0.72, 1.08)),
        gaze=np.array([np.clip(rng.normal(0, 0.10), -0.2, 0.2), np.clip(rng.normal(0, 0.05), -0.1, 0.1)], np.float32),
        light=np.array(light, np.float32),
        light_colour=planes(key),
        ambient=planes(fill),
        hair_tint=planes(np.exp(rng.normal(0, 0.48) + rng.normal(0, 0.13) * np.array([1.0, 0.15, -1.0]))),
        hairline_shift=float(rng.normal(0, 0.02)),
        parting_shift=float(rng.normal(0, 0.15)),
        volume_shift=float(u(-0.02, 0.04)),
        glasses=bool(rng.random() < 0.75),
        cloth=linear(np.clip(rng.choice([35, 80, 130, 200]) + rng.normal(0, 26, 3), 14, 235)),
        cloth_style=int(rng.integers(3)),
        blur=float(u(0.0, 0.5)) if sharp < 0.75 else float(u(0.5, 1.3)),
        motion=float(u(2, 4)) if rng.random() < 0.1 else 0.0,
        noise=float(rng.beta(1.2, 3.5)) * 10,
        quality=int(rng.integers(62, 96)),
        texture=int(rng.integers(2**31)),
    )
