"""`sfplus energy` prints and plots the energy of the layers of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sfplus.cli.energy import _filters
from sfplus.hypersphere import measure_uniformity
from sfplus.networks import create
from sfplus.weights.caffe import write_caffemodel
from sfplus.weights.caffe_networks import to_caffe


@pytest.mark.plots
def test_a_model_by_name_gives_a_table_and_a_plot(sfplus: Callable[..., Any], tmp_path: Path) -> None:
    answer = sfplus("energy", "sphereface10-distilled", "--out", tmp_path / "e.png")
    assert answer.code == 0, answer.err
    rows = {line.split()[0]: line.split()[1:] for line in answer.out.splitlines() if line[:4] in ("conv", "fc5 ")}
    assert len(rows) == 11 and rows["conv1_1"][:2] == ["24", "27"] and rows["fc5"][:2] == ["128", "8064"]
    assert float(rows["fc5"][3]) == pytest.approx(0.50006, abs=1e-5)  # random directions in 8,064 dimensions
    with Image.open(tmp_path / "e.png") as image:
        assert image.width > 1000 and image.height > 300


def test_the_layers_of_any_network_and_the_head_in_its_folder_are_measured(
    sfplus: Callable[..., Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.BatchNorm2d(8), nn.Linear(4, 6).half())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    save_file({"weight": torch.eye(5), "iteration": torch.tensor(3)}, tmp_path / "head.safetensors")
    answer = sfplus("energy", tmp_path / "model.safetensors", "--power", 0, "--half-space", "--out", tmp_path / "e.png")
    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines()[1:4]]
    assert [row[:3] for row in rows] == [["0", "8", "27"], ["3", "6", "4"], ["head", "5", "5"]]
    expected = measure_uniformity(model[0].weight.detach().flatten(1), 0, half_space=True)
    assert float(rows[0][3]) == pytest.approx(expected.energy, abs=1e-5)
    assert rows[2][6] == "0.00" and rows[2][7] == "90.0", "orthogonal directions reach the lower bound"
    assert "s = 0, half-space" in answer.out


def test_caffe_models_of_both_formats_are_measured(sfplus: Callable[..., Any], tmp_path: Path) -> None:
    network = create("sphereface4", feature_size=8, width=0.125)
    path = tmp_path / "model.caffemodel"
    write_caffemodel(path, to_caffe(network, "tiny")[1])
    answer = sfplus("energy", path, "--out", tmp_path / "e.png")
    assert answer.code == 0, answer.err
    rows = {line.split()[0]: line.split()[1:] for line in answer.out.splitlines() if line[:4] in ("conv", "fc5 ")}
    assert list(rows) == ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "fc5"] and rows["fc5"][:2] == ["8", "2688"]
    assert float(rows["fc5"][2]) == pytest.approx(measure_uniformity(network.fc5.weight).energy, abs=1e-5)
    assert _filters(np.ones((1, 1, 4, 3), np.float32)).shape == (4, 3), "the shape of linear layers in old files"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("no-such-model",), 2, "no model 'no-such-model'"),
        (("sphereface10-distilled", "--power", "-1"), 2, "use 0 or more"),
        (("sphereface10-distilled", "--power", "nan"), 2, "use 0 or more"),
        (("bias.safetensors",), 1, "no weights of two neurons"),
        (("broken.safetensors",), 1, "broken.safetensors: is damaged"),
        (("model.pth",), 1, "is a pickle"),
    ],
)
def test_invalid_arguments_and_files_are_reported_in_one_line(
    words: tuple[str, ...], code: int, message: str, sfplus: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"bias": torch.ones(3)}, "bias.safetensors")
    Path("broken.safetensors").write_bytes(b"x" * 40)
    Path("model.pth").write_bytes(b"x")
    answer = sfplus("energy", *words)
    assert answer.code == code and message in answer.err and answer.err.count("\n") == 1
    assert not Path("energy.png").exists()
