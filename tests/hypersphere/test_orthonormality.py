from __future__ import annotations

import pytest
import torch
from torch import nn

from sfplus.hypersphere import Orthonormality, SphereConv2d, orthonormal_penalty, orthonormal_regularizer


@pytest.mark.parametrize("shape", [(3, 2, 2, 1), (6, 5), (5, 1, 1, 2)])
def test_penalty_equals_the_sum_over_pairs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    rows, total = weight.flatten(1), 0.0
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            total += 0.5 * (float(a @ b) - (i == j)) ** 2
    assert orthonormal_penalty(weight).item() == pytest.approx(total, rel=1e-12)
    assert torch.autograd.gradcheck(orthonormal_penalty, weight.requires_grad_())


def test_penalty_is_0_for_orthonormal_filters_and_compares_within_groups() -> None:
    torch.manual_seed(0)
    weight = torch.empty(6, 3, 3, 3, dtype=torch.float64)
    assert orthonormal_penalty(nn.init.orthogonal_(weight)).item() < 1e-25
    assert orthonormal_penalty(2 * weight).item() == pytest.approx(0.5 * 6 * 9)
    grouped = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    dense = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    dense[:3, :2], dense[3:, 2:] = grouped[:3], grouped[3:]
    torch.testing.assert_close(orthonormal_penalty(grouped, groups=2), orthonormal_penalty(dense))


def test_regularizer_is_the_sum_over_sphere_layers() -> None:
    first, second = SphereConv2d(2, 4, 3), SphereConv2d(4, 4, 3, groups=2)
    model = nn.Sequential(first, nn.Conv2d(4, 4, 3), second, nn.Linear(3, 3))
    expected = orthonormal_penalty(first.weight) + orthonormal_penalty(second.weight, 2)
    torch.testing.assert_close(orthonormal_regularizer(model), expected)
    with pytest.raises(ValueError, match="to_sphere"):
        orthonormal_regularizer(nn.Conv2d(2, 2, 3))


def test_orthogonal_penalty_ignores_norms() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 8, dtype=torch.float64)
    gram = weight @ weight.T
    expected = sum(0.5 * float(gram[i, j]) ** 2 for i in range(5) for j in range(5) if i != j)
    assert orthonormal_penalty(weight, orthogonal=True).item() == pytest.approx(expected, rel=1e-12)
    assert orthonormal_penalty(torch.diag(torch.tensor([1.0, 2.0, 0.0])), orthogonal=True) == 0


@pytest.mark.parametrize("orthogonal", [False, True])
def test_orthonormality_is_the_weighted_sum_over_hidden_layers(orthogonal: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2), nn.Linear(5, 3))
    regularizer = Orthonormality(model, weight=0.1, orthogonal=orthogonal)
    transposed = model[1].weight.transpose(0, 1)
    expected = [orthonormal_penalty(model[0].weight, 2, orthogonal), orthonormal_penalty(transposed, 1, orthogonal)]
    total = regularizer()
    torch.testing.assert_close(total, 0.1 * (expected[0] + expected[1]))
    torch.testing.assert_close(list(regularizer.values.values()), [value.detach() for value in expected])
    assert list(regularizer.values) == ["0", "1"]
    regularizer.step(0.1)
    total.backward()
    assert model[0].weight.grad.any() and model[2].weight.grad is None
