"""PyTorch files of other projects, compared with networks built as their authors describe them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import crops, network
from opensphere import sfnet
from yakhyo import spherenet

from sfplus.errors import WeightsError
from sfplus.networks.normalize import normalize_crops
from sfplus.weights.loading import read_model


@pytest.mark.parametrize(
    ("norm", "deprecated", "block"),
    [(False, True, ""), (True, False, ""), (False, False, "modern"), (True, True, "original")],
)
@pytest.mark.parametrize("units", [(0, 0, 0, 0), (1, 2, 4, 1)])
@torch.inference_mode()
def test_opensphere_features_are_equal(
    units: tuple[int, ...], norm: bool, deprecated: bool, block: str, tmp_path: Path
) -> None:
    """Each project normalises the same crops in its own way."""
    original = sfnet(units, norm, deprecated)
    torch.save(original.state_dict(), tmp_path / "backbone.pth")
    model = read_model(tmp_path / "backbone.pth", block=block)
    pixels = crops(3, 112, 112)
    expected, actual = original(pixels), model.network(normalize_crops(torch.from_numpy(pixels)))
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5
    assert model.config["template"] == "arcface-112x112" and model.config["provenance"]["layout"] == "opensphere"
    assert model.config["network"] == ("sphereface20" if units[0] else "sphereface4")


@pytest.mark.parametrize("zipped", [True, False])  # PyTorch of 2017 wrote no zip files
def test_clcarwin_networks_keep_their_tensors(zipped: bool, tmp_path: Path) -> None:
    """The names are equal; the classifier has a column per person, and the biases of the units are trained."""
    net, head = network(), torch.randn(24, 9)
    torch.save(net.state_dict() | {"fc6.weight": head}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    model = read_model(tmp_path / "x.pth")
    assert model.head is not None and torch.equal(model.head, head.T)
    for name, tensor in net.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)
    assert model.config["network"] == "sphereface20" and model.config["provenance"]["layout"] == "clcarwin"
    assert float(model.network.conv1_2.bias.abs().max()) > 0  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("name", "units"), [("sphereface20", (1, 2, 4, 1)), ("sphereface36", (2, 4, 8, 2)), ("sphereface4", (0, 0, 0, 0))]
)
@pytest.mark.parametrize("wrap", [dict, lambda state: {"model": {f"module.{name}": state[name] for name in state}}])
@torch.inference_mode()
def test_yakhyos_features_are_equal(
    name: str, units: tuple[int, ...], wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    original = spherenet(units)
    torch.save(wrap(original.state_dict()), tmp_path / "sphere20_mcp.pth")
    model = read_model(tmp_path / "sphere20_mcp.pth")
    pixels = crops(3, 112, 112)
    expected, actual = original(pixels), model.network(normalize_crops(torch.from_numpy(pixels)))
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5
    config = model.config
    assert config["network"] == name and config["input"] == "112x112" and config["template"] == "arcface-112x112"
    assert config["provenance"]["layout"] == "yakhyo" and "block" not in config and not config.get("batch_norm")


def test_layers_around_the_network_are_left_out(tmp_path: Path) -> None:
    """A Lightning module, for example, has the classifier beside the backbone, under names of its own."""
    state = spherenet().state_dict()
    wrapped = {f"model.face.{name}": tensor for name, tensor in state.items()} | {"criterion.w": torch.ones(24, 9)}
    torch.save({"state_dict": wrapped, "epoch": 1}, tmp_path / "x.ckpt")
    torch.save(state, tmp_path / "y.pth")
    actual, expected = (read_model(tmp_path / name).network.state_dict() for name in ("x.ckpt", "y.pth"))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_yakhyos_other_networks_are_refused_by_name(tmp_path: Path) -> None:
    """His MobileNets have none of these layers; a SphereNet with batch normalisation was never released."""
    torch.save({"features.0.0.weight": torch.ones(16, 3, 3, 3)}, tmp_path / "mobilenetv2_mcp.pth")
    with pytest.raises(WeightsError, match=r"has no layers of a SphereFace network, but features\.0\.0\.weight"):
        read_model(tmp_path / "mobilenetv2_mcp.pth")
    torch.save(spherenet().state_dict() | {"layer1.0.2.weight": torch.ones(8)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"layer1\.0\.2\.weight does not belong to sphereface20"):
        read_model(tmp_path / "x.pth")
