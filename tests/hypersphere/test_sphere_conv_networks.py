"""What SphereNet needs beside its layer: the classifier, the regulariser, the conversion of whole networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from sfplus.hypersphere.orthonormality import orthonormal_penalty, orthonormal_regularizer
from sfplus.hypersphere.sphere_conv import SphereConv2d, WeightNormLinear, to_sphere


def test_weight_normalised_classifier() -> None:
    torch.manual_seed(0)
    layer, x = WeightNormLinear(5, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    for i in range(4):
        for j, w in enumerate(layer.weight.detach()):
            assert layer(x)[i, j].item() == pytest.approx(float(x[i] @ w / (w @ w + 1e-4).sqrt()), rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)), layer.weight, fast_mode=True
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(3, 2, 2, 1), (6, 5), (5, 1, 1, 2)])
def test_orthonormal_penalty_pair_by_pair(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    rows, total = weight.flatten(1), 0.0
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            total += 0.5 * (float(a @ b) - (i == j)) ** 2
    assert orthonormal_penalty(weight).item() == pytest.approx(total, rel=1e-12)
    assert torch.autograd.gradcheck(orthonormal_penalty, weight.requires_grad_())


def test_orthonormal_penalty_is_least_for_orthonormal_filters_and_knows_groups() -> None:
    torch.manual_seed(0)
    weight = torch.empty(6, 3, 3, 3, dtype=torch.float64)
    assert orthonormal_penalty(nn.init.orthogonal_(weight)).item() < 1e-25
    assert orthonormal_penalty(2 * weight).item() == pytest.approx(0.5 * 6 * 9)
    grouped = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    dense = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    dense[:3, :2], dense[3:, 2:] = grouped[:3], grouped[3:]
    torch.testing.assert_close(orthonormal_penalty(grouped, groups=2), orthonormal_penalty(dense))


def test_orthonormal_regularizer_sums_the_sphere_layers() -> None:
    first, second = SphereConv2d(2, 4, 3), SphereConv2d(4, 4, 3, groups=2)
    model = nn.Sequential(first, nn.Conv2d(4, 4, 3), second, nn.Linear(3, 3))
    expected = orthonormal_penalty(first.weight) + orthonormal_penalty(second.weight, 2)
    torch.testing.assert_close(orthonormal_regularizer(model), expected)
    with pytest.raises(ValueError, match="to_sphere"):
        orthonormal_regularizer(nn.Conv2d(2, 2, 3))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=10).double().eval()


def test_converts_a_resnet_in_place(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    model.layer1.train()
    before = {name: (id(module), module.training) for name, module in model.named_modules()}
    weights = {name: id(parameter) for name, parameter in model.named_parameters()}
    assert to_sphere(model, "sigmoid", k=0.5, skip=["conv1", "layer2.0"]) is model
    assert before == {name: (id(module), module.training) for name, module in model.named_modules()}
    assert weights == {name: id(parameter) for name, parameter in model.named_parameters()}
    converted = {name for name, module in model.named_modules() if isinstance(module, SphereConv2d)}
    everything = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert everything - converted == {"conv1", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"}
    assert model.layer3[0].conv1.k == 0.5 and model.layer3[0].conv1.stride == (2, 2)
    model.train()(torch.randn(2, 3, 32, 32, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_converted_network_can_be_the_old_one(resnet: nn.Module) -> None:
    model, x = to_sphere(copy.deepcopy(resnet), rescale=True), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for layer in model.modules():
        if isinstance(layer, SphereConv2d):
            nn.init.ones_(layer.rho)
    with torch.no_grad():
        torch.testing.assert_close(model(x), resnet(x), rtol=1e-9, atol=1e-9)


def test_conversion_of_biases_ties_and_subclasses() -> None:
    class Other(nn.Conv2d):
        pass

    tied = nn.Conv2d(2, 2, 3, padding=1)
    model = nn.Sequential(tied, tied, Other(2, 2, 1), nn.Conv2d(2, 2, 1).to(torch.bfloat16).requires_grad_(False))
    assert tied.bias is not None
    old = tied.bias
    to_sphere(model, "learnable-sigmoid", skip=["1"])
    assert type(tied) is nn.Conv2d and type(model[2]) is Other
    assert type(model[3]) is SphereConv2d and model[3].bias is None and model[3].k_raw.dtype == torch.bfloat16
    to_sphere(model, rescale=True)
    assert type(tied) is SphereConv2d and tied.bias is old
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        to_sphere(model)
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        to_sphere(nn.Linear(2, 2))


def test_a_wrong_skip_or_setting_changes_nothing(resnet: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv3'; there is layer1\.0\.conv"):
        to_sphere(resnet, skip=["conv1", "layer1.0.conv3"])
    with pytest.raises(ValueError, match="learnable-sigmoid"):
        to_sphere(resnet, "tanh")
    assert not any(isinstance(module, SphereConv2d) for module in resnet.modules())
