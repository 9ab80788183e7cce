"""PyTorch files of others, against networks that are built here as their authors describe them."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import crops, network
from torch import Tensor, nn

from sfplus.errors import UsageError, WeightsError
from sfplus.networks.normalize import normalize_crops
from sfplus.weights.loading import read_model


class Unit(nn.Module):
    """A residual unit of OpenSphere: ReLU after the sum, or in the networks called deprecated before it."""

    def __init__(self, channels: int, norm: bool, deprecated: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=not norm) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(2))
        self.deprecated = deprecated

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return y.relu() + x if self.deprecated else (y + x).relu()


class First(nn.Module):
    """The convolution of stride 2 that a stage begins with."""

    def __init__(self, before: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, 2, 1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).relu()


class SFNet(nn.Module):
    """OpenSphere's SFNet, an eighth as wide: RGB (x - 127.5) / 127.5, 112 x 112."""

    def __init__(self, units: tuple[int, ...], norm: bool, deprecated: bool) -> None:
        super().__init__()
        sizes = (3, 8, 16, 32, 64)
        for stage, count in enumerate(units, start=1):
            channels = sizes[stage]
            parts = [First(sizes[stage - 1], channels, norm), *(Unit(channels, norm, deprecated) for _ in range(count))]
            self.add_module(f"layer{stage}", nn.Sequential(*parts))
        self.fc = nn.Linear(64 * 49, 24)
        self.features = nn.BatchNorm1d(24) if norm else nn.Identity()

    def forward(self, crops: np.ndarray) -> Tensor:
        x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[operator]
        return self.features(self.fc(x.flatten(1)))


def sfnet(units: tuple[int, ...] = (0, 1, 2, 0), norm: bool = False, deprecated: bool = True) -> SFNet:
    torch.manual_seed(0)
    net = SFNet(units, norm, deprecated)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean") or name.endswith("bias"):
            nn.init.normal_(tensor, std=0.1)
        elif name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.3, 1)
    return net.eval()


@pytest.mark.parametrize(
    ("norm", "deprecated", "block"),
    [(False, True, ""), (True, False, ""), (False, False, "modern"), (True, True, "original")],
)
@pytest.mark.parametrize("units", [(0, 0, 0, 0), (1, 2, 4, 1)])
@torch.inference_mode()
def test_opensphere(units: tuple[int, ...], norm: bool, deprecated: bool, block: str, tmp_path: Path) -> None:
    """The same features of the same crops, through our own input."""
    theirs = sfnet(units, norm, deprecated)
    torch.save(theirs.state_dict(), tmp_path / "backbone.pth")
    source = read_model(tmp_path / "backbone.pth", block=block)
    pixels = crops(3, 112, 112)
    expected, found = theirs(pixels), source.network(normalize_crops(torch.from_numpy(pixels)))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert source.config["template"] == "arcface-112x112" and source.config["provenance"]["layout"] == "opensphere"
    assert source.config["network"] == ("sphereface20" if units[0] else "sphereface4")


@pytest.mark.parametrize("wrap", [lambda state: {"backbone": state, "head": {"w": torch.ones(5, 24)}},
                                  lambda state: {"step": 3, "model": {"backbone": state, "head": {}}, "scaler": {}},
                                  lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
                                  lambda state: {"state_dict": collections.OrderedDict(state)}])  # fmt: skip
def test_wrapped_checkpoints(wrap: Any, tmp_path: Path) -> None:
    state = sfnet().state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    plain, wrapped = (read_model(tmp_path / name).network.state_dict() for name in ("plain.pth", "wrapped.pth"))
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


@pytest.mark.parametrize("zipped", [True, False])  # PyTorch of 2017 wrote no zip files
def test_clcarwin(zipped: bool, tmp_path: Path) -> None:
    """Our names; the classifier has a column per person, and the biases of the units are trained."""
    net, head = network(), torch.randn(24, 9)
    torch.save(net.state_dict() | {"fc6.weight": head}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    source = read_model(tmp_path / "x.pth")
    assert source.head is not None and torch.equal(source.head, head.T)
    for name, tensor in net.state_dict().items():
        assert torch.equal(source.network.state_dict()[name], tensor)
    assert source.config["network"] == "sphereface20" and source.config["provenance"]["layout"] == "clcarwin"
    assert float(source.network.conv1_2.bias.abs().max()) > 0  # type: ignore[union-attr,operator]


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("bomb", ["pickle", "torch", "beside weights", "whole module"])
def test_pickles_that_run_code_are_refused(bomb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    if bomb == "pickle":
        path.write_bytes(pickle.dumps(_Bomb()))
    else:
        torch.save(
            {"torch": _Bomb(), "beside weights": network().state_dict() | {"extra": _Bomb()}}.get(bomb, network()), path
        )
    with pytest.raises(WeightsError, match="no state dict that can be read without running code") as caught:
        read_model(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"a": 1}, "holds no state dict"),
        ({"weight": torch.ones(3)}, "has no layers of a SphereFace network, but weight"),
        ({"conv1.weight": torch.ones(64, 3, 7, 7), "fc.bias": torch.ones(1)}, "has no layers of a SphereFace network"),
        ({"conv1_1.weight": torch.ones(1).expand(1 << 40)}, "conv1_1.weight is not stored whole"),
        ({"conv1_1.weight": torch.eye(3).to_sparse()}, "conv1_1.weight is not stored whole"),
        ({"conv1_1.weight": torch.ones(3, device="meta")}, "conv1_1.weight is not stored whole"),
        (network().state_dict() | {"fc6.weight": torch.ones((), dtype=torch.complex64)}, "the classifier is"),
        ({"layer1.0.conv1.weight": torch.ones(())}, "conv1_1.weight is"),
        ({"layer1.0.conv1.weight": torch.ones(64, 3, 3, 3)}, "conv2_1.weight is missing"),
        (network().state_dict() | {"fc6.weight": torch.ones(25, 9)}, r"the classifier is \(9, 25\) torch.float32"),
        (network().state_dict() | {"fc6.weight": torch.full((24, 9), torch.inf)}, "the classifier"),
        (network().state_dict() | {"conv1_4.weight": torch.ones(8, 8, 3, 3)}, "conv1_4.weight does not belong"),
        (sfnet().state_dict() | {"layer2.1.conv3.weight": torch.ones(1)}, "layer2.1.conv3.weight does not belong"),
    ],
)
def test_other_contents(found: Any, words: str, tmp_path: Path) -> None:
    torch.save(found, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=words) as caught:
        read_model(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    torch.save(network(width=0.02).state_dict(), tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for length in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "x.pth").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="no state dict"):
            read_model(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "sphereface10"}, "conv1_2.weight does not belong to sphereface10"),
        ({"network": "sphereface36"}, "conv1_4.weight is missing"),
    ],
)
def test_a_given_network_decides(options: dict[str, str], words: str, tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=words):
        read_model(tmp_path / "x.pth", **options)


def test_an_unknown_network_is_misuse(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="use one of sphereface4"):
        read_model(tmp_path / "x.pth", network="sphereface21")
    with pytest.raises(UsageError, match="block: 'old' is unknown"):
        read_model(tmp_path / "x.pth", block="old")
