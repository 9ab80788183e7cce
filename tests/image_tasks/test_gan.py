from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.hypersphere import hyperspherical_energy
from sfplus.image_tasks.gan import Discriminator, Generator, log_energy


def formula(filters: Tensor) -> Tensor:
    """Compute MHE-GAN/sn-model/libs/ops.py line by line on filters (d, N), without its factor."""
    doubled = torch.cat([filters, -filters], 0)
    unit = doubled / (doubled.square().sum(0, keepdim=True) + 1e-4).sqrt()
    distances = (2.0 - 2.0 * unit.T @ unit).triu(1)
    return -(distances + 1e-4).log().mean()


@pytest.mark.parametrize(("count", "size"), [(2, 3), (5, 3), (64, 27), (300, 40), (1, 20)])
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_log_energy_matches_the_original_formula(count: int, size: int, scale: float) -> None:
    torch.manual_seed(count)
    filters = (scale * torch.randn(count, size, dtype=torch.float64)).requires_grad_()
    ours, theirs = log_energy(filters), formula(filters.T)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradient = torch.autograd.grad(ours, filters)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, filters)[0], rtol=1e-9, atol=1e-13)
    if count == 1:
        assert ours.item() == pytest.approx(math.log(1e4)) and not gradient.any()


def test_log_energy_of_identical_filters_is_finite() -> None:
    filters = torch.randn(1, 9).repeat(3, 1).requires_grad_()
    torch.testing.assert_close(log_energy(filters), formula(filters.T), rtol=1e-3, atol=0)
    assert torch.autograd.grad(log_energy(filters), filters)[0].isfinite().all()


def test_log_energy_is_the_energy_of_the_paper_plus_a_constant() -> None:
    filters = torch.randn(128, 576, dtype=torch.float64)
    mean = hyperspherical_energy(filters, power=0)
    expected = 127 / 128 * 2 * mean / 2 + 129 / 256 * math.log(1e4)
    torch.testing.assert_close(log_energy(filters), expected, rtol=1e-4, atol=0)
    assert float(mean) == pytest.approx(-math.log(2) / 2, abs=2e-3)


def test_shapes_and_numbers_of_parameters() -> None:
    generator, discriminator = Generator(), Discriminator()
    maps = [(3, 64, 3), (64, 128, 4), (128, 128, 3), (128, 256, 4), (256, 256, 3), (256, 512, 4), (512, 512, 3)]
    count = sum(a * b * k * k + b for a, b, k in maps) + 8192
    assert sum(p.numel() for p in discriminator.parameters()) == count
    count = 128 * 8192 + sum(a * b * k * k + b for a, b, k in [(512, 256, 4), (256, 128, 4), (128, 64, 4), (64, 3, 3)])
    assert sum(p.numel() for p in generator.parameters()) == count + 2 * (8192 + 256 + 128 + 64)
    with torch.no_grad():
        images = generator(torch.randn(2, 128))
        assert images.shape == (2, 3, 32, 32) and float(images.abs().max()) <= 1
        assert discriminator(images).shape == (2,)
    assert {name: tuple(f.shape) for name, f in discriminator.neurons().items()} == {
        name: (b, a * k * k) for (name, _), (a, b, k) in zip(Discriminator.layers, maps, strict=True)
    } | {"l4": (1, 8192)}
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (2e-5, 0.1)


def test_weights_are_initialised_from_a_truncated_normal() -> None:
    torch.manual_seed(0)
    weight = Discriminator().get_parameter("c3_0.weight").detach()
    assert 0.0399 < float(weight.abs().max()) <= 0.04
    variance = 0.02**2 * (1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
    assert float(weight.var()) == pytest.approx(variance, rel=0.01)


def test_width_multiplies_the_maps() -> None:
    discriminator = Discriminator(0.125)
    assert [len(f) for f in discriminator.neurons().values()] == [8, 16, 16, 32, 32, 64, 64, 1]
    assert Generator(0.125)(torch.randn(4, 128)).shape == (4, 3, 32, 32)


@pytest.mark.slow
def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(0.125, spectral_norm=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for _ in range(400):
            discriminator(images[:1])
    discriminator.eval()
    for name, filters in discriminator.neurons().items():
        expected = filters / torch.linalg.matrix_norm(filters, 2)
        weight: Tensor = discriminator.get_submodule(name).weight  # type: ignore[assignment]
        torch.testing.assert_close(weight.flatten(1), expected, rtol=1e-3, atol=1e-5)


def test_spectral_norm_performs_one_step_per_training_pass() -> None:
    """Compare with the original's arithmetic: v = normalised W^T u, u = normalised W v, sigma = u^T W v."""
    torch.manual_seed(0)
    discriminator = Discriminator(0.125, spectral_norm=True)
    filters = discriminator.neurons()["c1_1"].detach()
    u = discriminator.get_buffer("c1_1.parametrizations.weight.0._u").clone()
    v = F.normalize(filters.T @ u, dim=0)
    u = F.normalize(filters @ v, dim=0)
    discriminator(torch.randn(3, 3, 32, 32))
    updated = discriminator.get_buffer("c1_1.parametrizations.weight.0._u").clone()
    torch.testing.assert_close(updated, u)
    discriminator.eval()
    discriminator(torch.randn(3, 3, 32, 32))
    assert torch.equal(discriminator.get_buffer("c1_1.parametrizations.weight.0._u"), updated)


def test_neurons_are_the_trained_weights() -> None:
    discriminator = Discriminator(0.125, spectral_norm=True)
    energy = torch.stack([log_energy(filters) for filters in discriminator.neurons().values()]).sum()
    before = discriminator.get_buffer("c0_0.parametrizations.weight.0._u").clone()
    energy.backward()
    assert torch.equal(discriminator.get_buffer("c0_0.parametrizations.weight.0._u"), before)
    assert discriminator.get_parameter("c0_0.parametrizations.weight.original").grad is not None
