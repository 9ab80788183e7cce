from __future__ import annotations

import numpy as np
import pytest
import torch

from sfplus.hypersphere import hyperspherical_energy
from sfplus.hypersphere import projection as module
from sfplus.hypersphere.projection import (
    AdversarialProjection,
    AngleProjection,
    GroupProjection,
    Projection,
    RandomProjection,
)

KINDS = [RandomProjection, AngleProjection, AdversarialProjection, GroupProjection]


def weights(count: int = 6, size: int = 20) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(count, size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(RandomProjection, (20, 6, 40)), (AngleProjection, (1, 6, 30)), (AdversarialProjection, (1, 6, 30)),
     (GroupProjection, (8, 6, 25))],
)  # fmt: skip
def test_defaults_are_those_of_the_originals(kind: type[Projection], shape: tuple[int, ...]) -> None:
    projection = kind(200)
    projected = projection(weights(size=200))
    assert projected.shape == shape and projection.dim == shape[2]
    assert repr(projection).startswith(f"{kind.__name__}(200 -> {shape[2]}")


def test_random_projection_is_the_mean_over_matrices() -> None:
    projection, weight = RandomProjection(20, dim=4, count=3), weights()
    energy = hyperspherical_energy(projection(weight), 2, half_space=True).mean()
    energies = [hyperspherical_energy(weight @ matrix.double().T, 2, half_space=True) for matrix in projection.matrix]
    torch.testing.assert_close(energy, sum(energies) / 3)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_float32_products_are_close_to_float64_and_restore_the_backend(
    bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MULTIPLIES_BFLOAT16", bfloat16)
    backend = torch.backends.mkldnn.matmul
    previous = backend.fp32_precision
    projection = RandomProjection(300, dim=4, count=3)
    weight = torch.randn(70, 300, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wide = weight.detach().double().requires_grad_()
    projected, expected = projection(weight), projection(wide)
    projected.square().sum().backward()
    expected.square().sum().backward()
    assert weight.grad is not None and wide.grad is not None
    assert projected.dtype == weight.grad.dtype == torch.float32
    assert torch.equal(projected, projected.bfloat16().float()) is bfloat16, "bfloat16 has 8 bits"
    assert (projected - expected).norm() < 2**-8 * expected.norm()
    assert (weight.grad - wide.grad).norm() < 2**-7 * wide.grad.norm()
    assert backend.fp32_precision == previous


def test_random_projection_is_a_function_of_seed_and_step() -> None:
    first, second, third = RandomProjection(20), RandomProjection(20), RandomProjection(20, seed=346)
    weight, drawn = weights(), []
    for _ in range(3):
        assert torch.equal(first.matrix, second.matrix)
        drawn.append(first.matrix.clone())
        first.step(weight, 0.1)
        second.step(weight, 0.1)
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], third.matrix)
    resumed = RandomProjection(20)
    resumed.load_state_dict(first.state_dict())
    first.step(weight, 0.1)
    resumed.step(weight, 0.1)
    assert torch.equal(first.matrix, resumed.matrix) and abs(float(first.matrix.std()) - 1) < 0.02


def cosines(weight: torch.Tensor) -> torch.Tensor:
    unit = weight / weight.norm(dim=1, keepdim=True)
    return unit @ unit.T


def numeric_slope(objective: object, matrix: torch.Tensor) -> torch.Tensor:
    slope = torch.zeros_like(matrix)
    for index in np.ndindex(*matrix.shape):
        for sign in (1, -1):
            moved = matrix.clone()
            moved[index] += sign * 1e-6
            slope[index] += sign * float(objective(moved)) / 2e-6  # type: ignore[operator]
    return slope


@pytest.mark.parametrize("kind", [AngleProjection, AdversarialProjection])
def test_learned_projections_apply_one_more_step(
    kind: type[AngleProjection] | type[AdversarialProjection],
) -> None:
    """The reference evaluates the original formulas, with slopes from finite differences."""
    projection, weight = kind(5, dim=3, iterations=2, lr=0.05).double(), weights(4, 5)

    def objective(matrix: torch.Tensor) -> torch.Tensor:
        projected = weight @ matrix[0].T
        if kind is AngleProjection:
            return (cosines(projected) - cosines(weight)).square().sum().sqrt()
        return -torch.pdist(projected / projected.norm(dim=1, keepdim=True)).pow(-2).mean()

    matrix = projection.matrix.clone()
    unrolled = matrix - 0.05 * numeric_slope(objective, matrix)
    torch.testing.assert_close(projection(weight), weight @ unrolled.mT, rtol=1e-6, atol=1e-8)
    assert torch.equal(projection.matrix, matrix), "a forward pass does not change the matrix"
    for _ in range(2):
        matrix = matrix - 0.2 * (numeric_slope(objective, matrix) + 1e-3 * 5e-4 * matrix)
    projection.step(weight, 0.2)
    torch.testing.assert_close(projection.matrix, matrix, rtol=1e-6, atol=1e-8)
    assert float(projection.lr) == pytest.approx(0.2) and int(projection.steps) == 1


def test_steps_of_angle_projection_reduce_its_objective() -> None:
    projection, weight = AngleProjection(200, iterations=20), weights(12, 200)
    before = projection.objective(projection.matrix.double(), weight)
    projection.step(weight, 0.5)
    assert float(projection.objective(projection.matrix.double(), weight)) < 0.7 * float(before)


def test_steps_of_adversarial_projection_raise_the_energy() -> None:
    projection, weight = AdversarialProjection(200), weights(40, 200)
    before = hyperspherical_energy(weight @ projection.matrix[0].double().T, 2)
    for _ in range(10):
        projection.step(weight, 20.0)
    assert hyperspherical_energy(weight @ projection.matrix[0].double().T, 2) > 1.05 * before


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_passes_through_the_projection(kind: type[Projection]) -> None:
    projection = kind(6, 3).double()
    weight = weights(4, 6).requires_grad_()

    def energy(w: torch.Tensor) -> torch.Tensor:
        return hyperspherical_energy(projection(w), 2, half_space=True).mean()

    assert torch.autograd.gradcheck(energy, weight, atol=1e-4)
    if kind in (RandomProjection, GroupProjection):
        assert torch.autograd.gradgradcheck(energy, weight, atol=1e-4)
    with torch.no_grad():
        assert not energy(weight).requires_grad


@pytest.mark.parametrize(("size", "groups"), [(24, 4), (10, 3), (7, 7), (27, 8), (3, 2)])
def test_groups_are_slices_of_the_neurons(size: int, groups: int) -> None:
    weight = weights(5, size)
    energies = hyperspherical_energy(GroupProjection(size, groups)(weight), 1)
    width = -(-size // groups)
    expected = [hyperspherical_energy(weight[:, k : k + width], 1) for k in range(0, size, width)]
    torch.testing.assert_close(energies, torch.stack(expected))


def test_random_groups_contain_every_element_once() -> None:
    projection = GroupProjection(24, 4, random=True)
    elements = projection(torch.arange(24.0).repeat(2, 1))[:, 0]
    assert sorted(elements.flatten().tolist()) == list(range(24)) and elements.flatten().tolist() != list(range(24))


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 4, "dim": 0}, {"size": 4, "count": 0}])
def test_sizes_below_1_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        RandomProjection(**options)


@pytest.mark.parametrize("groups", [0, -1, 11])
def test_impossible_numbers_of_groups_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        GroupProjection(10, groups)
