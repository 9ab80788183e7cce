from __future__ import annotations

import pytest
import torch

from sfplus.hypersphere.riesz_kernel import SMALLEST_SQUARED_CHORD, Kernel


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_floor_of_the_squared_chord_is_as_documented(distance: str, dtype: torch.dtype) -> None:
    floor = SMALLEST_SQUARED_CHORD[dtype]
    kernel = Kernel(2.0, distance)
    value, slope, curvature = kernel.derivatives(torch.tensor([1.0, 1 - floor / 4, 1 - 2 * floor], dtype=dtype), 2)
    assert value[0] == value[1] == pytest.approx(1 / floor, rel=0.1) and value[2] < value[1] / 3
    assert not slope[:2].any() and not curvature[:2].any() and slope[2] > 0 and curvature[2] > 0
