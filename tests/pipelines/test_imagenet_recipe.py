"""The recipe of ImageNet: every depth and regulariser of the paper's table from files to the table, and its hours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from sfplus.recipes.load import find_recipe, load_recipe

DEPTHS = ("resnet18", "resnet34")
CONVOLUTIONS = {"resnet18": 17 + 3, "resnet34": 33 + 3}  # with three shortcuts of 1x1
VARIANTS = {
    "baseline": "energy.mode=none", "orthogonal": "energy.mode=orthogonal", "orthonormal": "energy.mode=orthonormal",
    "MHE": "energy.mode=mhe", "half-space MHE": "energy.mode=mhe energy.half_space=true",
}  # fmt: skip


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in the layout of ImageNet, each of its own size, one of them grey."""
    root, random = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("n01440764", "n01443537", "n02102040"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                size = tuple(random.integers(40, 90, 2)) + (() if label.endswith("4") and not number else (3,))
                pixels = random.integers(0, 256, size, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{label}_{number}.JPEG")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_all_regularisers_run_from_files_to_the_table(
    depth: str,
    imagenet: Path,
    tmp_path: Path,
    sfplus: Callable,  # type: ignore[type-arg]
) -> None:
    words = ["batch_size=6", "max_iter=2", "steps=[]", "log_every=1", "test_every=2", "base_lr=0.01", "data.resize=40",
             "data.crop=32", f"data.root={imagenet}", f"network=torchvision:{depth}"]  # fmt: skip
    variants = [word for name, changes in VARIANTS.items() for word in ("--variant", f"{name}:{changes}")]
    answer = sfplus("sweep", "mhe-imagenet", *words, *variants, "--device", "cpu", "--workspace", tmp_path)
    assert answer.code == 0, answer.err
    (file,) = (tmp_path / "runs").glob("*/sweep.json")
    sweep = json.loads(file.read_text())
    assert [row["label"] for row in sweep["rows"]] == [*VARIANTS] and not sweep["failures"]
    found = {}
    for folder in (path.parent for path in (tmp_path / "cache/classify").glob("*/manifest.json")):
        settings = json.loads((folder / "manifest.json").read_text())["settings"]["energy"]
        energies = json.loads((folder / "result.json").read_text())["energies"]
        found[settings["mode"], settings["half_space"]] = list(energies.values())
    layers = CONVOLUTIONS[depth]
    assert {key: len(values) for key, values in found.items()} == {
        ("none", False): 0, ("orthogonal", False): layers, ("orthonormal", False): layers,
        ("mhe", False): layers + 1, ("mhe", True): layers + 1,
    }  # fmt: skip
    for values in (found["mhe", False], found["mhe", True]):  # of random directions in many dimensions 1/2
        assert values[:-1] == pytest.approx([0.5] * layers, abs=0.03)
    assert min(found["orthonormal", False]) > min(found["orthogonal", False]) > 0


@pytest.mark.slow
def test_the_hours_of_the_header_are_those_of_its_formula() -> None:
    path = find_recipe("mhe-imagenet")
    header = " ".join(line.strip("# ") for line in path.read_text("utf-8").splitlines() if line.startswith("#"))
    settings = load_recipe(path).classify
    assert settings is not None
    images, operations = settings.max_iter * settings.batch_size, []
    for depth in DEPTHS:
        with torch.device("meta"):
            network, x = torchvision.models.get_model(depth), torch.empty(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            network(x).sum().backward()
        operations.append(counter.get_total_flops())
    stated = re.search(r"takes ([\d.]+) GFLOP .* and ([\d.]+) in ResNet-34", header)
    assert stated and [float(text) for text in stated.groups()] == [round(count / 1e9, 1) for count in operations]
    speed = 50e12
    hours = [images * count / speed / 3600 for count in operations]
    stated = re.search(r"take ([\d.]+) and ([\d.]+) hours on one GPU", header)
    assert stated and [float(text) for text in stated.groups()] == [round(value, 1) for value in hours]
    stated = re.search(r"On eight they take ([\d.]+) and ([\d.]+): .* ([\d.]+) and ([\d.]+) GFLOP a step", header)
    assert stated
    energies = [float(text) for text in stated.groups()[2:]]
    energy_hours = [settings.max_iter * 1e9 * energy / speed / 3600 for energy in energies]
    eighths = [value / 8 + extra for value, extra in zip(hours, energy_hours, strict=True)]
    assert [float(text) for text in stated.groups()[:2]] == [round(value, 1) for value in eighths]
    stated = re.search(r"needs ([\d,]+) images a second", header)
    assert stated and float(stated[1].replace(",", "")) == round(speed / operations[0], -2)
