from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from slow_cases import slow

from sfplus.errors import DependencyError, UsageError, WeightsError
from sfplus.networks import create
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import save_model


def test_timm_network_computes_the_same_as_in_timm() -> None:
    torch.manual_seed(0)
    network = create("timm:resnet18", feature_size=8).eval()
    torch.manual_seed(0)
    expected = timm.create_model("resnet18", num_classes=8).eval()
    x = torch.randn(2, 3, 112, 96)
    assert torch.equal(network(x), expected(x)) and network(x).shape == (2, 8)


def test_torchvision_network_computes_the_same_as_in_torchvision() -> None:
    torch.manual_seed(0)
    network = create("torchvision:resnet18", feature_size=8, input="112x112").eval()
    torch.manual_seed(0)
    expected = torchvision.models.resnet18(num_classes=8).eval()
    x = torch.randn(1, 3, 112, 112)
    assert torch.equal(network(x), expected(x))
    assert create("torchvision:squeezenet1_1", feature_size=8).training


def test_transformers_get_the_size_of_the_crops() -> None:
    network = create("timm:vit_tiny_patch16_224", feature_size=8).eval()
    assert network(torch.randn(2, 3, 112, 96)).shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1", "timm has no network 'resnet1'"),
        ("timm:hf-hub:timm/resnet18", "timm has no network 'hf-hub:timm/resnet18'"),
        ("timm:local-dir:/tmp", "timm has no network"),
        ("timm:", "timm has no network ''"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no network"),
        slow("torchvision:vit_b_16", "torchvision:vit_b_16 does not accept crops of 112x96"),
    ],
)
def test_unknown_and_unsuitable_networks_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create(name)


@pytest.mark.parametrize("option", [{"width": 0.5}, {"block": "modern"}, {"batch_norm": True}])
def test_options_of_sphereface_networks_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"timm:resnet18: does not support {next(iter(option))}"):
        create("timm:resnet18", **option)


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DependencyError, match=r"install it: .*pip install .*\[timm\]"):
        create("timm:resnet18")


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", slow("timm:swin_tiny_patch4_window7_224"), "torchvision:squeezenet1_1"]
)
def test_a_saved_network_is_loaded_without_drawing_random_numbers(name: str, tmp_path: Path) -> None:
    """Includes counters of batch normalisation, and buffers that are not stored."""
    torch.manual_seed(0)
    network = create(name, feature_size=8, input="112x112").eval()
    save_model(tmp_path, network, {"network": name, "feature_size": 8, "width": 1.0})
    before = torch.get_rng_state()
    loaded, config = load_model(tmp_path)
    assert config["input"] == "112x112" and torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, 3, 112, 112)
    assert torch.equal(network(x), loaded(x))
    with pytest.raises(WeightsError, match=r"is missing|is larger than these weights"):
        save_model(tmp_path, create("sphereface4", width=0.1, feature_size=8), config)
        load_model(tmp_path)
