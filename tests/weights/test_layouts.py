"""PyTorch files of other projects, compared with networks built as their authors describe them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import crops, network
from opensphere import sfnet

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
