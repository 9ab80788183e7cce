from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sfplus.hypersphere import margin_cosine
from sfplus.hypersphere.heads.margins import angle


def psi(theta: np.ndarray, m: int) -> np.ndarray:
    """Evaluate equation 8 of the SphereFace paper."""
    k = np.minimum(np.floor(m * theta / np.pi), m - 1)
    return (-1) ** k * np.cos(m * theta) - 2 * k


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8])
def test_margin_cosine_equals_psi_on_a_fine_grid(m: int) -> None:
    theta = np.linspace(0, np.pi, 100_001)
    values = margin_cosine(torch.from_numpy(np.cos(theta)), m).numpy()
    np.testing.assert_allclose(values, psi(theta, m), atol=2e-12)
    assert (np.diff(values) <= 1e-12).all(), "psi must not rise"
    assert values[0] == 1 and values[-1] == pytest.approx(1 - 2 * m)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 8])
def test_margin_cosine_is_exact_at_the_branch_points(m: int) -> None:
    theta = np.arange(m + 1) * np.pi / m
    cosine = torch.from_numpy(np.cos(theta)).requires_grad_()
    exact = margin_cosine(torch.cat([cosine, torch.zeros(1, dtype=torch.float64)]), m)
    np.testing.assert_allclose(exact[:-1].detach().numpy(), 1 - 2 * np.arange(m + 1), atol=1e-12)
    assert float(exact[-1].detach()) == pytest.approx(1 - m)
    (slope,) = torch.autograd.grad(exact.sum(), cosine)
    assert slope.isfinite().all()
    assert slope[0] == pytest.approx(m**2) and slope[-1] == pytest.approx(m**2)  # d cos(m t) / d cos(t) at 0 and pi
    np.testing.assert_allclose(slope[1:-1], 0, atol=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_slope_of_margin_cosine_equals_finite_differences(m: int) -> None:
    cosine = torch.linspace(-0.999, 0.999, 501, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(margin_cosine(cosine, m).sum(), cosine)
    step = 1e-6
    numeric = (margin_cosine(cosine + step, m) - margin_cosine(cosine - step, m)) / (2 * step)
    torch.testing.assert_close(slope, numeric.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angle_has_a_finite_slope(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    cosine = torch.tensor([1, 1 - eps / 2, 1 - eps, 0.5, -1 + eps / 2, -1, 1 + eps], dtype=dtype, requires_grad=True)
    theta = angle(cosine)
    expected = torch.tensor([0, 0, 0, math.pi / 3, math.pi, math.pi, 0], dtype=dtype)
    torch.testing.assert_close(theta, expected, atol=3 * eps**0.5, rtol=0)
    (slope,) = torch.autograd.grad(theta.sum(), cosine)
    assert slope[3] == pytest.approx(-2 / 3**0.5) and slope.abs().max() < eps**-0.5
