from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import nn

from sfplus.hypersphere import measure_layer_uniformity, measure_uniformity, uniformity
from sfplus.hypersphere.reference_energy import least_energy, random_energy


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("rows", [2048, 7])
def test_figures_equal_those_of_the_full_matrix(half_space: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniformity, "_ROWS", rows)
    torch.manual_seed(0)
    weight = torch.randn(30, 8, dtype=torch.float64)
    cosine = cosine_similarity(weight.numpy())
    result = measure_uniformity(weight, 1.0, half_space)
    angle = np.arccos(np.clip(np.abs(cosine) if half_space else cosine, -1, 1))
    off = ~np.eye(30, dtype=bool)
    assert result.mean_angle == pytest.approx(angle[off].mean(), rel=1e-9)
    np.fill_diagonal(angle, np.inf)
    np.testing.assert_allclose(result.nearest.numpy(), angle.min(1), rtol=1e-6)
    assert result.min_angle == pytest.approx(angle.min(), rel=1e-6)
    assert result.mean_nearest == pytest.approx(angle.min(1).mean(), rel=1e-6)
    values = np.linalg.svd(weight.numpy() / np.linalg.norm(weight.numpy(), axis=1, keepdims=True))[1] ** 2
    assert result.redundancy == pytest.approx(1 - values.sum() ** 2 / (values**2).sum() / 8, rel=1e-9)
    assert (result.count, result.dimension, result.power) == (30, 8, 1.0)
    assert result.random == random_energy(30, 8, 1.0, half_space)
    assert result.least == least_energy(30, 8, 1.0, half_space)


def test_orthogonal_directions_are_best_and_equal_ones_worst() -> None:
    best, worst = measure_uniformity(torch.eye(5), half_space=True), measure_uniformity(torch.ones(5, 5))
    assert best.excess == pytest.approx(0, abs=1e-5) and best.redundancy == pytest.approx(0, abs=1e-6)
    assert best.min_angle == pytest.approx(math.pi / 2)
    assert worst.excess > 100 and worst.redundancy == pytest.approx(0.8) and worst.min_angle < 1e-3


def test_random_directions_have_excess_one() -> None:
    torch.manual_seed(0)
    assert measure_uniformity(torch.randn(2000, 64)).excess == pytest.approx(1, abs=0.3)


def test_excess_is_nan_if_the_random_energy_is_infinite() -> None:
    assert math.isnan(measure_uniformity(torch.randn(6, 3), power=2.0).excess)


def test_zero_neurons_are_left_out() -> None:
    weight = torch.cat([torch.zeros(50, 60), torch.eye(60)[:40]])
    result = measure_uniformity(weight)
    assert (result.count, result.zeros, len(result.nearest)) == (40, 50, 40)
    assert result.redundancy == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="N of 2 or more"):
        measure_uniformity(torch.zeros(4, 4))
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    nn.init.zeros_(model[0].weight)
    assert list(measure_layer_uniformity(model)) == ["1"]


def test_measuring_does_not_change_the_model() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.BatchNorm1d(8).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_layer_uniformity(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model[0].training and not model[1].training


def test_layers_are_listed_by_name_and_group() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Linear(8, 3))
    assert list(measure_layer_uniformity(model)) == ["0[0]", "0[1]", "2"]
    with pytest.raises(ValueError, match="no convolution"):
        measure_layer_uniformity(nn.ReLU())
    with pytest.raises(ValueError, match="N of 2 or more"):
        measure_uniformity(torch.ones(1, 4))
