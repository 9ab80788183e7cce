from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from sfplus.errors import UsageError
from sfplus.networks import (
    create,
    is_library_network,
    is_network,
    network_names,
    network_options,
    parse_size,
    registry,
    sphereface,
)


def test_names_are_available_without_torch() -> None:
    code = "import sys, sfplus.networks as n; n.network_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_names_are_those_of_the_modules() -> None:
    assert network_names() == tuple(sphereface.NETWORKS)
    assert all(is_network(name) and not is_library_network(name) for name in network_names())
    for name in ("timm:resnet18", "torchvision:resnet18"):
        assert is_network(name) and is_library_network(name)
    for name in ("timm", "timm:", "sphereface21", "sphereface4:", "keras:resnet18", ""):
        assert not is_network(name) and not is_library_network(name)


@pytest.mark.parametrize("name", network_names())
def test_all_tensors_are_in_the_state_dict(name: str) -> None:
    """A network whose weights are loaded is created on the meta device, where buffers outside it have no values."""
    with torch.device("meta"):
        network = create(name)
    assert {name for name, _ in (*network.named_parameters(), *network.named_buffers())} == set(network.state_dict())


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("sphereface21", "sphereface20"), ("SphereFace64", "sphereface64"), ("zzz", "sphereface4,")],
)
def test_unknown_names_get_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match=suggestion) as caught:
        create(name)
    assert name in str(caught.value)


def test_options_that_differ_from_their_defaults_are_recorded() -> None:
    options = {"width": 0.1, "block": "modern", "batch_norm": False, "input": "112x112"}
    assert create("sphereface4", **options).options == {"input": "112x112", "block": "modern"}
    assert create("sphereface4", width=0.1).options == {}


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UsageError, match="does not support depth; its options are width, block, batch_norm"):
        create("sphereface4", depth=3)


def test_a_new_module_is_a_new_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, *, feature_size: int, crop_size: tuple[int, int], depth: int = 1) -> nn.Module:
        height, width = crop_size
        layers = [nn.Linear(3 * height * width, feature_size), *(nn.Identity() for _ in range(depth))]
        return nn.Sequential(nn.Flatten(), *layers)

    module = type(sys)("sfplus.networks.linear")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "_modules", lambda: {"linear": "linear", "sphereface4": "sphereface"})
    network = create("linear", feature_size=5, width=1.0, block="original", batch_norm=False, depth=2)
    assert network(torch.zeros(2, 3, 112, 96)).shape == (2, 5) and network.options == {"depth": 2}
    assert network_options("linear") == {"feature_size", "input", "width", "block", "batch_norm", "depth"}
    with pytest.raises(UsageError, match="linear: does not support width; its options are depth"):
        create("linear", width=0.5)


@pytest.mark.parametrize(("size", "expected"), [("112x96", (112, 96)), ("224x192", (224, 192))])
def test_parse_size(size: str, expected: tuple[int, int]) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["96x112", "112", "112x95", "100x96", "112x96x3", "0x0", "4096x4096", "112X96", ""])
def test_sizes_that_networks_do_not_accept(size: str) -> None:
    with pytest.raises(UsageError, match="is not a size of crops; use HEIGHTxWIDTH"):
        parse_size(size)
