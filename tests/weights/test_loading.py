from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from models import network
from opensphere import sfnet

from sfplus.errors import UsageError, WeightsError
from sfplus.networks import create
from sfplus.weights.loading import create_network, load_model, read_model
from sfplus.weights.model_folder import save_model


def test_create_network_has_the_weights(tmp_path: Path) -> None:
    net = network("sphereface4", 0.05, 6)
    save_model(tmp_path, net, {"network": "sphereface4", "feature_size": 6, "width": 0.05})
    before = torch.get_rng_state()
    loaded = create_network("sphereface4", str(tmp_path), feature_size=6, width=0.05)
    assert not loaded.training and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def test_a_new_input_size_is_stored_and_loaded(tmp_path: Path) -> None:
    net = create("sphereface4", feature_size=6, width=0.05, input="128x112")
    save_model(tmp_path, net, {"network": "sphereface4", "feature_size": 6, "width": 0.05})
    loaded, config = load_model(tmp_path)
    assert config["input"] == "128x112" and loaded(torch.zeros(1, 3, 128, 112)).shape == (1, 6)


@pytest.mark.parametrize("wrap", [lambda state: {"backbone": state, "head": {"w": torch.ones(5, 24)}},
                                  lambda state: {"step": 3, "model": {"backbone": state, "head": {}}, "scaler": {}},
                                  lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
                                  lambda state: {"state_dict": collections.OrderedDict(state)}])  # fmt: skip
def test_state_dicts_in_checkpoints_are_unwrapped(wrap: Any, tmp_path: Path) -> None:
    state = sfnet().state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    plain, wrapped = (read_model(tmp_path / name).network.state_dict() for name in ("plain.pth", "wrapped.pth"))
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("bomb", ["pickle", "torch", "next to weights", "whole module"])
def test_pickles_that_run_code_are_refused(bomb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    if bomb == "pickle":
        path.write_bytes(pickle.dumps(_Bomb()))
    else:
        contents = {"torch": _Bomb(), "next to weights": network().state_dict() | {"extra": _Bomb()}}
        torch.save(contents.get(bomb, network()), path)
    with pytest.raises(WeightsError, match="no state dict that can be read without running code") as caught:
        read_model(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains no state dict"),
        ({}, "contains no state dict"),
        ({"a": 1}, "contains no state dict"),
        ({"weight": torch.ones(3)}, "has no layers of a SphereFace network, but weight"),
        ({"conv1.weight": torch.ones(64, 3, 7, 7), "fc.bias": torch.ones(1)}, "has no layers of a SphereFace network"),
        ({"conv1_1.weight": torch.ones(1).expand(1 << 40)}, "conv1_1.weight is not stored completely"),
        ({"conv1_1.weight": torch.eye(3).to_sparse()}, "conv1_1.weight is not stored completely"),
        ({"conv1_1.weight": torch.ones(3, device="meta")}, "conv1_1.weight is not stored completely"),
        (network().state_dict() | {"fc6.weight": torch.ones((), dtype=torch.complex64)}, "the classifier is"),
        ({"layer1.0.conv1.weight": torch.ones(()), "fc.bias": torch.ones(1)}, "conv1_1.weight is"),
        ({"layer1.0.conv1.weight": torch.ones(64, 3, 3, 3)}, "conv2_1.weight is missing"),
        (network().state_dict() | {"fc6.weight": torch.ones(25, 9)}, r"the classifier is \(9, 25\) torch.float32"),
        (network().state_dict() | {"fc6.weight": torch.full((24, 9), torch.inf)}, "the classifier"),
        (network().state_dict() | {"conv1_4.weight": torch.ones(8, 8, 3, 3)}, "conv1_4.weight does not belong"),
        (sfnet().state_dict() | {"layer2.1.conv3.weight": torch.ones(1)}, "layer2.1.conv3.weight does not belong"),
    ],
)
def test_unsuitable_contents_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        read_model(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    torch.save(network(width=0.02).state_dict(), tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    for length in [*range(0, len(data), len(data) // 40), len(data) - 1]:
        (tmp_path / "x.pth").write_bytes(data[:length])
        with pytest.raises(WeightsError, match="no state dict"):
            read_model(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "sphereface10"}, "conv1_2.weight does not belong to sphereface10"),
        ({"network": "sphereface36"}, "conv1_4.weight is missing"),
    ],
)
def test_a_requested_network_is_not_inferred(options: dict[str, str], message: str, tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message):
        read_model(tmp_path / "x.pth", **options)


def test_unknown_networks_and_blocks_are_refused(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="use one of sphereface4"):
        read_model(tmp_path / "x.pth", network="sphereface21")
    with pytest.raises(UsageError, match="block: 'old' is unknown"):
        read_model(tmp_path / "x.pth", block="old")
