from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from thomson import THOMSON

from sfplus.hypersphere import hyperspherical_energy
from sfplus.hypersphere.reference_energy import least_energy, random_energy

POLYGON = [[math.cos(2 * math.pi * k / 8), math.sin(2 * math.pi * k / 8)] for k in range(8)]
GOLD = (1 + 5**0.5) / 2
ICOSAHEDRON = [
    list(np.roll([0, a, b * GOLD], shift)) for a in (-1, 1) for b in (-1, 1) for shift in range(3)
]  # fmt: skip
SIMPLEX = (np.eye(6) - 1 / 6).tolist()  # six points that span five dimensions
CROSS = [*np.eye(7).tolist(), *(-np.eye(7)).tolist()]


@pytest.mark.parametrize("power", [0, 1, 2, 0.7, 5])
@pytest.mark.parametrize(
    ("points", "dimension"), [(POLYGON, 2), (ICOSAHEDRON, 3), (SIMPLEX, 5), (CROSS, 7)],
    ids=["polygon", "icosahedron", "simplex", "cross-polytope"],
)  # fmt: skip
def test_optimal_designs_attain_the_bound(points: list[list[float]], dimension: int, power: float) -> None:
    energy = hyperspherical_energy(torch.tensor(points, dtype=torch.float64), power)
    assert least_energy(len(points), dimension, power) == pytest.approx(float(energy), rel=1e-9)


@pytest.mark.parametrize("count", [5, 7, 8, 9, 10, 11, 13, 20, 24, 32, 50, 72])
def test_bound_is_slightly_below_the_thomson_minima(count: int) -> None:
    bound = least_energy(count, 3, 1) * count * (count - 1) / 2
    assert 0.97 * THOMSON[count] < bound < THOMSON[count]


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize(("count", "dimension"), [(3, 1), (40, 6), (64, 27), (300, 20), (1000, 3), (100, 100)])
@pytest.mark.parametrize("half_space", [False, True])
def test_bound_is_below_random_energy(count: int, dimension: int, power: float, half_space: bool) -> None:
    least = least_energy(count, dimension, power, half_space)
    assert math.isfinite(least) and least < random_energy(count, dimension, power, half_space)
    torch.manual_seed(0)
    drawn = hyperspherical_energy(torch.randn(count, dimension), power, half_space=half_space)
    assert least < float(drawn)


def test_orthogonal_neurons_attain_the_half_space_bound() -> None:
    energy = hyperspherical_energy(torch.eye(20, dtype=torch.float64), 2, half_space=True)
    assert least_energy(20, 20, 2, half_space=True) == pytest.approx(float(energy), rel=1e-9)


@pytest.mark.parametrize(("dimension", "power"), [(3, 0), (3, 1), (5, 2), (9, 2.5), (40, 1), (512, 0), (512, 2)])
def test_random_energy_equals_the_integral(dimension: int, power: float) -> None:
    def kernel(angle: float) -> float:
        chord = 2 * math.sin(angle / 2)
        return -math.log(chord) if power == 0 else chord**-power

    def density(angle: float) -> float:
        return math.sin(angle) ** (dimension - 2)

    peak = {"points": [math.pi / 2], "limit": 200}
    top = quad(lambda a: kernel(a) * density(a), 1e-12, math.pi, **peak)[0]
    assert random_energy(2, dimension, power) == pytest.approx(top / quad(density, 0, math.pi, **peak)[0], rel=1e-6)


@pytest.mark.parametrize("half_space", [False, True])
def test_random_energy_equals_the_mean_over_random_directions(half_space: bool) -> None:
    torch.manual_seed(0)
    drawn = hyperspherical_energy(torch.randn(2000, 12, 9), 1, half_space=half_space)
    error = float(drawn.std()) / len(drawn) ** 0.5
    assert random_energy(12, 9, 1, half_space) == pytest.approx(float(drawn.mean()), abs=4 * error)


@pytest.mark.parametrize(("dimension", "power"), [(1, 0), (2, 1), (3, 2), (3, 2.5)])
def test_random_energy_is_infinite_if_the_integral_diverges(dimension: int, power: float) -> None:
    assert random_energy(10, dimension, power) == math.inf
