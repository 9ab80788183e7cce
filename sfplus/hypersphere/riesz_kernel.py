"""Riesz kernels: the energy of a pair of directions as a function of the cosine between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["euclidean", "geodesic"]
Preset = Literal["exact", "tf1"]

SMALLEST_SQUARED_CHORD = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Floor of ||a - b||^2 (an angle of 0.003 rad in float32); below it `2 - 2 cos` is mostly rounding error."""

LARGEST_POWER = {torch.float32: 10, torch.float64: 40}
"""Largest power for which the energy of two directions at the floor, and its curvature, are finite."""

TF1_NORM_EPSILON = 1e-4
"""The constant that the original TensorFlow code adds to the squared norm of a direction (MHE, architecture.py)."""


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return float32, or the dtype of x if that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


@dataclass(frozen=True)
class Kernel:
    """The energy f_s of two directions at a distance z: f_s(z) = z^-s, f_0(z) = log(1/z) (MHE paper, section 3.1).

    z is the chord ||a - b|| = sqrt(2 - 2 cos) (euclidean) or the angle in radians (geodesic, A-MHE). Values, first
    and second derivatives are exact except for a floor: a squared chord below `SMALLEST_SQUARED_CHORD` is replaced by
    that floor and has derivative 0, since two directions that coincide have no direction in which to move apart. The
    geodesic kernel has the same floor at opposite directions, where the slope of the arc cosine is infinite. Just
    above the floor float32 rounds by about 5 % in value and slope at 0.004 rad and by 1 % at 0.01 rad; float64 does
    not.

    The preset `tf1` is the arithmetic of the original TensorFlow code (MHE, architecture.py): for s = 0 it computes
    -log(z^2), twice the paper's value, and its angle is z/pi + 1e-4.

    Attributes:
        power: Power s >= 0.
        distance: `euclidean` or `geodesic`.
        half_space: Add the energy with the opposite direction, f(c) + f(-c).
        preset: `exact` or `tf1`.

    Raises:
        ValueError: If the power is negative or not finite, or a name is not one of these.
    """

    power: float = 2.0
    distance: str = "euclidean"
    half_space: bool = False
    preset: str = "exact"

    def __post_init__(self) -> None:
        if not 0 <= self.power < math.inf:
            raise ValueError(f"the power of an energy must be 0 or more, not {self.power}")
        if self.distance not in ("euclidean", "geodesic"):
            raise ValueError(f"the distance must be euclidean or geodesic, not '{self.distance}'")
        if self.preset not in ("exact", "tf1"):
            raise ValueError(f"the preset must be exact or tf1, not '{self.preset}'")

    def value(self, cosine: Tensor) -> Tensor:
        """Return the energy of pairs with these cosines, any shape; differentiable by autograd."""
        return self.derivatives(cosine, 0)[0]

    def derivatives(self, cosine: Tensor, order: int) -> list[Tensor]:
        """Return [f, df/dc, d^2f/dc^2] up to `order` 0, 1 or 2, each of the shape of `cosine`.

        Raises:
            ValueError: If the power is larger than `LARGEST_POWER` of the dtype.
        """
        if self.power > LARGEST_POWER[cosine.dtype]:
            largest = f"{LARGEST_POWER[cosine.dtype]} in {cosine.dtype}".replace("torch.", "")
            raise ValueError(f"the power of an energy must be at most {largest}, not {self.power:g}")
        if self.half_space and self.distance == "euclidean" and self.power in (0, 2):
            return self._line(cosine, order)
        one_side = self._chord if self.distance == "euclidean" else self._angle
        result = one_side(cosine, order)
        if self.half_space:
            for degree, opposite in enumerate(one_side(-cosine, order)):
                result[degree] = result[degree] - opposite if degree == 1 else result[degree] + opposite
        return result

    def _chord(self, cosine: Tensor, order: int) -> list[Tensor]:
        s, floor = self.power, SMALLEST_SQUARED_CHORD[cosine.dtype]
        squared = 2 - 2 * cosine
        inverse = _inverse_above(squared, floor) if order else squared
        squared = squared.clamp_min(floor)
        if s == 0:
            factor = 2.0 if self.preset == "tf1" else 1.0
            value = squared.log() * (-factor / 2)
        else:
            factor = s
            value = squared.reciprocal() if s == 2 else squared.rsqrt() if s == 1 else squared.pow(-s / 2)
        result = [value]
        if order:
            falling = inverse if s == 0 else value * inverse
            result.append(falling * factor)
        if order == 2:
            result.append((falling * inverse).mul_(factor * (s + 2)))
        return result

    def _line(self, cosine: Tensor, order: int) -> list[Tensor]:
        """Compute f_2(c) + f_2(-c) = 1 / (1 - c^2) or f_0(c) + f_0(-c) = -log(4 (1 - c^2)) / 2 in one step."""
        floor = SMALLEST_SQUARED_CHORD[cosine.dtype]
        floor -= floor**2 / 4  # of 1 - c^2
        sine = torch.addcmul(cosine.new_ones(()), cosine, cosine, value=-1)  # squared
        factor = 2.0 if self.power == 2 or self.preset == "tf1" else 1.0
        if order and self.power == 2:
            inverse = F.threshold(sine, floor, math.inf, inplace=True).reciprocal_()
            value = F.threshold(inverse, 0, 1 / floor)
        else:
            inverse = _inverse_above(sine, floor) if order else sine
            sine.clamp_min_(floor)
            value = sine.reciprocal() if self.power == 2 else (4 * sine).log_().mul_(-factor / 2)
        result = [value]
        if order:
            falling = inverse if self.power == 0 else inverse.square_() if order == 1 else inverse.square()
            out = falling if order == 1 else None  # new memory would take longer than the operation
            result.append(torch.addcmul(cosine.new_zeros(()), falling, cosine, value=factor, out=out))
        if order == 2:
            bend = torch.addcmul(cosine.new_ones(()), cosine, cosine, value=1 + self.power)
            result.append(bend.mul_(falling).mul_(inverse).mul_(factor))
        return result

    def _angle(self, cosine: Tensor, order: int) -> list[Tensor]:
        s, limit = self.power, 1 - SMALLEST_SQUARED_CHORD[cosine.dtype] / 2
        inside = cosine.abs() > limit if order else None
        cosine = cosine.clamp(-limit, limit)
        scale, shift = (1 / math.pi, 1e-4) if self.preset == "tf1" else (1.0, 0.0)
        angle = cosine.acos() * scale + shift
        result = [-angle.log() if s == 0 else angle.pow(-s)]
        if inside is not None:
            sine = (1 - cosine.square()).sqrt()
            slope = angle.pow(-s - 1).mul_(scale * (s or 1)).div_(sine)
            result.append(slope.masked_fill_(inside, 0))
        if order == 2:
            assert inside is not None
            curvature = slope * ((s + 1) * scale / angle + cosine / sine) / sine
            result.append(curvature.masked_fill_(inside, 0))
        return result


def _inverse_above(values: Tensor, floor: float) -> Tensor:
    """Return 1 / values, and 0 up to the floor, where derivatives are 0; a mask would take longer than all the rest."""
    return F.threshold(values, floor, math.inf).reciprocal_()
