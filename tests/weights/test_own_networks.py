"""Models whose network is code of the user's own: it runs only if the user names it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sfplus.embedder import Embedder
from sfplus.errors import SfplusError, UsageError, WeightsError
from sfplus.networks import create
from sfplus.networks.own_networks import create_own
from sfplus.weights.find_model import ModelSource
from sfplus.weights.loading import load_model, read_model
from sfplus.weights.model_folder import save_model

CONFIG = {"network": "own_parts:small", "feature_size": 4, "width": 1.0, "template": "sphereface-112x96"}
TEXT = """
from pathlib import Path
from torch import nn
Path("was-imported").write_text("")

class small(nn.Sequential):
    def __init__(self, feature_size, channels: int = 2, width: float = 1.0):
        last = nn.Linear(channels, feature_size)
        super().__init__(nn.Conv2d(3, channels, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
        self.options = object()  # an attribute of the user's

def anything(feature_size, path: str = "", input: str = "", **options):
    return small(feature_size, 3)

def lazy(feature_size, channels: int = 2):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(channels), nn.LazyLinear(feature_size))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model with a network of the user's own, in the current folder, whose code leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_parts.py").write_text(TEXT)
    network = create_own("own_parts:small", {"channels": 3}, feature_size=4)
    save_model(tmp_path / "model", network, CONFIG | {"network_options": {"channels": 3}})
    sys.modules.pop("own_parts")
    (tmp_path / "was-imported").unlink()
    yield tmp_path / "model"
    sys.modules.pop("own_parts", None)


READERS: list[Callable[[Path], object]] = [
    load_model,
    read_model,
    lambda path: Embedder(path, "cpu"),
    lambda path: ModelSource(str(path)).loaded,
    lambda path: read_model(path / "model.safetensors"),
    lambda path: ModelSource(str(path)).config["network"] and load_model(path),
]


@pytest.mark.parametrize("read", READERS)
def test_what_a_config_names_is_never_imported(folder: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(UsageError, match=r"its network is code, own_parts:small, which only you .* add --network own"):
        read(folder)
    assert not Path("was-imported").exists() and "own_parts" not in sys.modules


@pytest.mark.parametrize("name", ["own_parts:small", "os:abort", "own_parts:Path.cwd", "sfplus.cli.main:app"])
@pytest.mark.parametrize("network", ["", "sphereface4"])
def test_a_network_of_another_name_allows_nothing(folder: Path, name: str, network: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"network": name}))
    with pytest.raises(SfplusError) as caught:
        read_model(folder, network)
    assert "\n" not in str(caught.value) and not Path("was-imported").exists()


def test_the_named_code_is_run_with_the_options_of_the_config(folder: Path) -> None:
    for path in (folder, folder / "model.safetensors"):
        model = read_model(path, "own_parts:small")
        assert model.network[0].out_channels == 3 and not model.network.training
        assert model.network(torch.zeros(2, 3, 112, 96)).shape == (2, 4)
    (folder.parent / "moved_parts.py").write_text(TEXT)
    before = torch.get_rng_state()
    assert read_model(folder, "moved_parts:small").config["network"] == "own_parts:small"
    assert torch.equal(torch.get_rng_state(), before)


def test_code_that_does_not_fit_the_weights_is_one_line(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match=r"tensor 0.weight is \(3, 3, 3, 3\), own_parts:small needs \(2, 3, 3, 3\)"):
        read_model(folder, "own_parts:small")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"network_options": {"depth": 1}}))
    with pytest.raises(UsageError, match="own_parts:small: has no option 'depth'"):
        read_model(folder, "own_parts:small")


@pytest.mark.parametrize("name", ["path", "input", "options", "where", "standard"])
def test_options_may_have_any_name(folder: Path, name: str) -> None:
    text = json.dumps(CONFIG | {"network": "own_parts:anything", "network_options": {name: "x"}})
    (folder / "config.json").write_text(text)
    assert read_model(folder, "own_parts:anything").network(torch.zeros(2, 3, 112, 96)).shape == (2, 4)


@pytest.mark.parametrize("name", ["feature_size", "width"])
def test_options_that_sfplus_sets_are_one_line(folder: Path, name: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"network_options": {name: 1}}))
    with pytest.raises(UsageError, match=f"own_parts:small: is given '{name}' by sfplus; leave it out of the options"):
        read_model(folder, "own_parts:small")


@pytest.mark.parametrize("network", ["own_parts:small", "own_parts:lazy"])
def test_options_that_need_much_memory_are_refused_first(folder: Path, network: str) -> None:
    options = {"network": network, "network_options": {"channels": 10**8}}  # 10 GB and more
    (folder / "config.json").write_text(json.dumps(CONFIG | options))
    with pytest.raises(WeightsError, match=f"{network} is larger than these weights; use the config.json"):
        read_model(folder, network)


def test_a_network_whose_shapes_come_from_the_first_images_is_loaded(folder: Path) -> None:
    network = create_own("own_parts:lazy", feature_size=4)
    save_model(folder, network, CONFIG | {"network": "own_parts:lazy"})
    images = torch.rand(2, 3, 112, 96)
    network(images).sum().backward()
    assert torch.equal(read_model(folder, "own_parts:lazy").network(images), network.eval()(images))


@pytest.mark.parametrize("template", ["no-such", "\x1b[1m", "sphereface-0x0", "../x"])
def test_a_template_that_does_not_exist_is_an_error_of_the_config(folder: Path, template: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"template": template}))
    with pytest.raises(WeightsError, match=r"config.json: "):
        _ = ModelSource(str(folder)).template


def test_a_network_of_sfplus_is_not_replaced_by_code(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "plain", create("sphereface4", feature_size=4, width=0.1), CONFIG | {
        "network": "sphereface4", "width": 0.1})  # fmt: skip
    with pytest.raises(UsageError, match="its config says sphereface4, not own_parts:small; leave out --network"):
        read_model(tmp_path / "plain", "own_parts:small")
    assert not Path("was-imported").exists()


def test_options_that_training_always_has_are_passed_on_if_they_are_taken(folder: Path) -> None:
    network = create_own("own_parts:small", feature_size=4, width=0.5, block="original", batch_norm=False)
    assert isinstance(network, nn.Module) and network.training
    with pytest.raises(UsageError, match="has no option 'batch_norm'; leave batch_norm out"):
        create_own("own_parts:small", feature_size=4, batch_norm=True)
