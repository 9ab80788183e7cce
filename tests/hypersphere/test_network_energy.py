from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torchvision
from slow_cases import slow
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from sfplus.hypersphere import HypersphericalEnergy, hyperspherical_energy
from sfplus.hypersphere.neurons import neuron_layers
from sfplus.hypersphere.projection import AdversarialProjection, AngleProjection, GroupProjection, RandomProjection


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2),
        nn.Conv2d(12, 12, 3, groups=12), nn.ConvTranspose2d(12, 6, 2, groups=3), nn.Flatten(), nn.Linear(54, 10),
    )  # fmt: skip


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_energy_is_the_weighted_sum_over_layers(distance: Any, half_space: bool) -> None:
    model = small()
    energy = HypersphericalEnergy(model, 1, distance, half_space, hidden=0.5, output=3.0)
    expected = {}
    for layer in neuron_layers(model):
        hidden = layer.name != "7"
        energies = [hyperspherical_energy(g, 1, distance, half_space and hidden) for g in layer.neurons()]
        expected[layer.name] = sum(energies) / len(energies)
    total = energy()
    torch.testing.assert_close(total, sum((3.0 if n == "7" else 0.5) * e for n, e in expected.items()))  # type: ignore[arg-type]
    for name, value in energy.values.items():
        torch.testing.assert_close(value, expected[name].detach())  # type: ignore[union-attr]
    assert list(energy.values) == list(expected) and not total.isnan()
    total.backward()
    for name in ("0", "3", "5", "7"):
        assert model[int(name)].weight.grad.any()
    assert model[1].weight.grad is None and model[0].bias.grad is None


def test_resnet18_has_an_energy_of_21_layers() -> None:
    model = torchvision.models.resnet18(num_classes=10)
    energy = HypersphericalEnergy(model, power=0, half_space=True)
    energy().backward()
    assert len(energy.values) == 21 and energy.output_layer == "fc"
    assert not any(True for _ in energy.parameters()) and not energy.state_dict()
    assert "layers=21" in repr(energy)


def test_gradient_descent_makes_neurons_orthogonal() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
    energy = HypersphericalEnergy(model, power=2, half_space=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(500):
        optimizer.zero_grad()
        energy().backward()
        optimizer.step()
    unit = nn.functional.normalize(model[0].weight.detach(), dim=1)
    torch.testing.assert_close(unit @ unit.T, torch.eye(6), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("options", "remaining"),
    [
        ({"skip": ["0"]}, ["3", "5", "7"]),
        ({"skip": ["[35]"]}, ["0", "7"]),
        ({"skip": ["7"]}, ["0", "3", "5"]),
        ({"output_layer": "-"}, ["0", "3", "5", "7"]),
    ],
)
def test_skip_and_output_layer_select_layers(options: dict[str, Any], remaining: list[str]) -> None:
    energy = HypersphericalEnergy(small(), **options)
    total = energy()
    assert list(energy.values) == remaining
    factors = [10.0 if name == "7" and "output_layer" not in options else 1.0 for name in remaining]
    torch.testing.assert_close(total.detach(), sum(f * v for f, v in zip(factors, energy.values.values(), strict=True)))


@pytest.mark.parametrize("kind", [RandomProjection, AngleProjection, GroupProjection])
def test_comhe_measures_projected_hidden_layers(kind: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(200, 5))
    energy = HypersphericalEnergy(model, half_space=True, projection=kind)
    used = [isinstance(projection, kind) for projection in energy.projections]
    assert used == [kind is GroupProjection, True, False], "27 inputs and the output layer have no projection"
    for _ in range(2):
        energy.step(0.1)
        total = energy()
    projected = energy.projections[1](model[1].weight.flatten(1))
    expected = hyperspherical_energy(projected, 2, half_space=True).mean()
    torch.testing.assert_close(energy.values["1"], expected.detach())
    total.backward()
    assert model[1].weight.grad is not None and model[1].weight.grad.isfinite().all()
    assert int(energy.projections[1].steps) == (0 if kind is GroupProjection else 2)


def test_comhe_with_a_shared_basis_steps_once() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3))
    energy = HypersphericalEnergy(model, projection=functools.cache(RandomProjection))
    assert energy.projections[0] is energy.projections[1]
    energy.step(0.1)
    assert int(energy.projections[0].steps) == 1


def test_comhe_at_initialisation_equals_the_original_logs() -> None:
    """The logs give 5.13 (random) and 5.18 (angle, adversarial) for the ten hidden layers of CNN-9."""
    torch.manual_seed(0)
    shapes = [(64, 27), *[(64, 576)] * 2, (128, 576), *[(128, 1152)] * 2, (256, 1152), *[(256, 2304)] * 2, (256, 4096)]
    model = nn.Sequential(*[nn.Linear(size, count, bias=False) for count, size in [*shapes, (100, 256)]])
    for layer in model:
        nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
    for kind, published in ((RandomProjection, 5.13), (AngleProjection, 5.18)):
        energy = HypersphericalEnergy(model, half_space=True, projection=kind, preset="tf1")
        with torch.no_grad():
            energy()
        hidden = sum(float(value) for name, value in energy.values.items() if name != "10")
        assert hidden == pytest.approx(published, abs=0.05)


def test_projections_resume_from_a_state_dict() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 3))
    original = HypersphericalEnergy(model, projection=RandomProjection)
    for _ in range(3):
        original.step(0.1)
    resumed = HypersphericalEnergy(model, projection=RandomProjection)
    assert not torch.equal(original(), resumed())
    resumed.load_state_dict(original.state_dict())
    assert torch.equal(original(), resumed())
    original.step(0.1)
    resumed.step(0.1)
    assert torch.equal(original(), resumed())


def test_matrices_do_not_depend_on_the_number_of_threads() -> None:
    energies = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            energy = HypersphericalEnergy(
                nn.Sequential(*[nn.Linear(64, 8) for _ in range(5)]), projection=RandomProjection
            )
            for _ in range(3):
                energy.step(0.1)
            energies.append(energy)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(energies[0].projections[:4], energies[1].projections, strict=False):
        assert torch.equal(one.matrix, other.matrix) and int(one.steps) == int(other.steps) == 3


@pytest.mark.parametrize("kind", [RandomProjection, AngleProjection, AdversarialProjection])
def test_layers_of_the_same_size_have_different_projections(kind: Any) -> None:
    energy = HypersphericalEnergy(nn.Sequential(*[nn.Linear(64, 8) for _ in range(3)]), projection=kind)
    for _ in range(2):
        assert not torch.equal(energy.projections[0].matrix, energy.projections[1].matrix)
        energy.step(0.1)


@pytest.mark.parametrize("kind", [RandomProjection, AngleProjection, AdversarialProjection, GroupProjection])
def test_layers_of_zeros_give_finite_results(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(64, 8), nn.Linear(8, 3))
    nn.init.zeros_(model[0].weight)
    energy = HypersphericalEnergy(model, half_space=True, projection=kind)
    energy.step(0.1)
    energy().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, orthogonal])
def test_parametrised_layers_are_included(wrap: Any) -> None:
    model = nn.Sequential(*[wrap(nn.Linear(8, 8)) for _ in range(11)])
    for _ in range(3):
        energy = HypersphericalEnergy(model)
        assert len(energy.layers) == 11 and energy.output_layer == "10"
    energy().backward()
    assert all(p.grad is not None for p in model[0].parametrizations.parameters() if p.requires_grad)


def test_layers_may_have_any_name() -> None:
    model = nn.Module()
    for name in ("keys", "values", "a/b", "a"):
        setattr(model, name, nn.Linear(64, 8))
    model.a.b = nn.Linear(64, 8)
    energy = HypersphericalEnergy(model, projection=RandomProjection, output_layer="-")
    energy.step(0.1)
    assert energy().isfinite() and len(energy.values) == 5
    assert HypersphericalEnergy(nn.Linear(64, 8), projection=RandomProjection, output_layer="-")().isfinite()


@pytest.mark.parametrize("kind", [RandomProjection, slow(GroupProjection), slow(None)])
def test_second_derivatives_of_a_network_are_exact(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(4, 3)).double()
    energy = HypersphericalEnergy(
        model, half_space=True, projection=kind and (lambda size: kind(size, 2)), preset="tf1"
    )
    weights = [layer.weight for layer in model]

    def total(*values: torch.Tensor) -> torch.Tensor:
        for layer, value in zip(model, values, strict=True):
            del layer.weight
            layer.weight = value
        return energy()

    inputs = [weight.detach().clone().requires_grad_() for weight in weights]
    assert torch.autograd.gradcheck(total, inputs) and torch.autograd.gradgradcheck(total, inputs)


def test_weights_are_read_at_each_call_and_stay_float32_under_autocast() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    energy = HypersphericalEnergy(model)
    before = energy()
    with torch.no_grad():
        model[0].weight.normal_()
    assert energy() != before
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert energy().dtype == torch.float32 and torch.equal(energy(), energy())
    assert energy.to(torch.float64)().dtype == torch.float32, "the model is not part of the module"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.ReLU(), {}, "no convolution or linear layer"),
        (nn.Linear(3, 1), {}, "no convolution or linear layer"),
        (nn.Linear(3, 4), {"skip": ["fc"]}, "no layer is called 'fc'"),
        (nn.Sequential(nn.Linear(3, 4)), {"skip": ["0"]}, "no convolution or linear layer"),
        (nn.Sequential(nn.Linear(3, 4)), {"output_layer": "1"}, "no layer is called '1'; the layers are 0"),
        (nn.Sequential(nn.Linear(3, 4)), {"output_layer": "*"}, r"no layer is called '\*'"),
        (nn.Sequential(nn.Linear(3, 4)), {"skip": "0"}, "a list of names"),
        (nn.Sequential(nn.LazyLinear(4)), {}, "layer 0 has no shape yet"),
        (nn.Linear(3, 4), {"power": -1}, "0 or more"),
        (nn.Linear(3, 4), {"distance": "cosine"}, "euclidean or geodesic"),
    ],
)
def test_wrong_arguments_are_refused(model: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HypersphericalEnergy(model, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        slow({}),
        slow({"half_space": True, "power": 0}),
        slow({"distance": "geodesic", "power": 1}),
        slow({"preset": "tf1"}),
        {"projection": RandomProjection, "half_space": True},
        slow({"projection": GroupProjection}),
    ],
    ids=str,
)
def test_compiles_without_breaks(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Linear(64, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3))
    energy = HypersphericalEnergy(model, **options)
    compiled = torch.compile(energy, backend="aot_eager_decomp_partition", fullgraph=True)
    for _ in range(2):
        energy.step(0.1)
        results = []
        for function in (energy, compiled):
            model.zero_grad()
            total = function()
            total.backward()
            gradients = [p.grad for p in model.parameters() if p.ndim > 1]
            results.append([total.detach(), *energy.values.values(), *gradients])
        torch.testing.assert_close(results[1], results[0])
