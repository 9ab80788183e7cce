"""Training from a pack gives the same model as training from the crops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from collection_writers import write_folders
from slow_cases import slow

from sfplus.cli.pack import pack
from sfplus.datasets.crops import CropDataset
from sfplus.datasets.identities import assign_labels
from sfplus.device import choose_device
from sfplus.hypersphere import HEADS
from sfplus.images import list_photos
from sfplus.networks import create
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training.face_task import fit
from sfplus.weights.model_folder import load_tensors

Sfplus = Callable[..., SimpleNamespace]


def manifest(workspace: Path) -> dict[str, dict[str, object]]:
    (path,) = (workspace / "cache/train").glob("*/manifest.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("width", "options"), [(96, {}), slow(112, {"block": "modern", "batch_norm": True})])
def test_the_model_is_the_same_bit_for_bit(width: int, options: dict[str, Any], tmp_path: Path, sfplus: Sfplus) -> None:
    write_folders(tmp_path / "crops", {"Ada": 4, "Ben": 3, "Cyd": 3}, 112, width)
    pack(tmp_path / "crops", tmp_path / "crops.pack")
    train = {
        "network": "sphereface4", "feature_size": 16, "width": 0.125, "head": {"m": 2}, "batch_size": 8,
        "base_lr": 0.02, "steps": [], "max_iter": 4, "checkpoint_every": 2, "log_every": 2,
    } | options  # fmt: skip
    settings = TrainSettings.model_validate(train)
    people, labels, names = assign_labels(list_photos(tmp_path / "crops"))
    torch.manual_seed(0)
    network = create("sphereface4", feature_size=16, width=0.125, input=f"112x{width}", **options)
    head = HEADS["asoftmax"](16, len(people), **settings.head.model_dump(exclude={"name"}))
    crops = CropDataset([tmp_path / "crops" / name for name in names], labels, 112, width)
    fit(network, head, crops, settings, tmp_path / "direct", choose_device("cpu"))

    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"train": train | {"photos": str(tmp_path / "crops.pack")}}))
    command = ("--device", "cpu", "--until", "train", "--workspace")
    answer = sfplus("run", recipe, *command, tmp_path / "pack")
    assert answer.code == 0, answer.err
    assert "detect" not in answer.err
    (model,) = (tmp_path / "pack/cache/train").glob("*/model.safetensors")
    tensors, expected = load_tensors(model), network.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert "a pack of 10 crops" in str(manifest(tmp_path / "pack")["sources"]["crops"])

    excluded = tmp_path / "out.txt"
    excluded.write_text("# in the test set\nBen\n")
    answer = sfplus("run", recipe, f"train.exclude={excluded}", *command, tmp_path / "excluded")
    assert answer.code == 0, answer.err
    assert manifest(tmp_path / "excluded")["counts"]["people"] == 2
    assert manifest(tmp_path / "excluded")["settings"]["exclude"] == ["Ben"]
    excluded.write_text("Cyd\n")  # another list makes the training stale
    answer = sfplus("status", recipe, f"train.exclude={excluded}", "--workspace", tmp_path / "excluded")
    assert "train              stale    exclude" in answer.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("size", "its crops are 12x10, these networks take 112x96 or 112x112; align the photos again"),
        ("unfinished", "is not a finished pack; make one with sfplus pack"),
        ("list", "is not a list of people"),
        ("label", "train.photos is missing"),
    ],
)
def test_invalid_packs_and_lists_are_refused(tmp_path: Path, sfplus: Sfplus, change: str, message: str) -> None:
    write_folders(tmp_path / "crops", {"Ada": 2, "Ben": 2})
    pack(tmp_path / "crops", tmp_path / "a.pack")
    if change == "unfinished":
        (tmp_path / "a.pack" / "manifest.json").unlink()
    recipe = {"photos": str(tmp_path / "a.pack")} if change != "label" else {}
    recipe |= {"exclude": str(tmp_path / "missing.txt")} if change == "list" else {}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"train": recipe}))
    answer = sfplus("run", tmp_path / "r.yaml", "--workspace", tmp_path / "data", "--device", "cpu")
    assert answer.code in (1, 2) and message in answer.err
