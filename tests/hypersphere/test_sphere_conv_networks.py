"""SphereNet's classifier and the conversion of whole networks to `SphereConv2d`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from sfplus.hypersphere.sphere_conv import SphereConv2d, WeightNormLinear, to_sphere


def test_classifier_divides_logits_by_the_norm_of_its_weights() -> None:
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


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=10).double().eval()


def test_a_resnet_is_converted_in_place(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    model.layer1.train()
    before = {name: (id(module), module.training) for name, module in model.named_modules()}
    weights = {name: id(parameter) for name, parameter in model.named_parameters()}
    assert to_sphere(model, "sigmoid", k=0.5, skip=["conv1", "layer2.0"]) is model
    assert before == {name: (id(module), module.training) for name, module in model.named_modules()}
    assert weights == {name: id(parameter) for name, parameter in model.named_parameters()}
    converted = {name for name, module in model.named_modules() if isinstance(module, SphereConv2d)}
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert convolutions - converted == {"conv1", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"}
    assert model.layer3[0].conv1.k == 0.5 and model.layer3[0].conv1.stride == (2, 2)
    model.train()(torch.randn(2, 3, 32, 32, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_rescaled_network_can_equal_the_original(resnet: nn.Module) -> None:
    model, x = to_sphere(copy.deepcopy(resnet), rescale=True), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for layer in model.modules():
        if isinstance(layer, SphereConv2d):
            nn.init.ones_(layer.rho)
    with torch.no_grad():
        torch.testing.assert_close(model(x), resnet(x), rtol=1e-9, atol=1e-9)


def test_conversion_handles_biases_shared_layers_and_subclasses() -> None:
    class Subclass(nn.Conv2d):
        pass

    tied = nn.Conv2d(2, 2, 3, padding=1)
    model = nn.Sequential(tied, tied, Subclass(2, 2, 1), nn.Conv2d(2, 2, 1).to(torch.bfloat16).requires_grad_(False))
    assert tied.bias is not None
    bias = tied.bias
    to_sphere(model, "learnable-sigmoid", skip=["1"])
    assert type(tied) is nn.Conv2d and type(model[2]) is Subclass
    assert type(model[3]) is SphereConv2d and model[3].bias is None and model[3].k_raw.dtype == torch.bfloat16
    to_sphere(model, rescale=True)
    assert type(tied) is SphereConv2d and tied.bias is bias
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        to_sphere(model)
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        to_sphere(nn.Linear(2, 2))


def test_a_wrong_skip_or_setting_leaves_the_network_unchanged(resnet: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv3'; the nearest names are layer1\.0\.conv"):
        to_sphere(resnet, skip=["conv1", "layer1.0.conv3"])
    with pytest.raises(ValueError, match="learnable-sigmoid"):
        to_sphere(resnet, "tanh")
    assert not any(isinstance(module, SphereConv2d) for module in resnet.modules())
