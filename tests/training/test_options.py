"""What settings change in a step: passes, clipping, running average, precision, compiling, held-out pairs."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PEOPLE, SETTINGS, State, Train, run, tiny_model

from sfplus.datasets.crops import CropDataset
from sfplus.device import Device, choose_device
from sfplus.errors import DatasetError, UsageError
from sfplus.hypersphere import HEADS, Softmax
from sfplus.networks import create
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import TrainingSettings
from sfplus.training import face_task as loop
from sfplus.training.batch_norm import normalised_together
from sfplus.training.distributed import Processes
from sfplus.training.face_task import fit
from sfplus.training.head_ops import copy_classes, whole_head

PLAIN = {"max_iter": 1, "base_lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "energy": None}
"""A step whose change of the weights is the gradient."""


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture
def step(crops: CropDataset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., State]:
    """Call with a folder and settings: the state after one step in float64, whose change is the gradient."""
    monkeypatch.setattr(loop, "normalize_crops", lambda crops: normalize_crops(crops).double())

    def call(folder: Path, **changes: Any) -> State:
        settings = TrainingSettings.model_validate({**SETTINGS.model_dump(), **PLAIN, **changes})
        network, head = (module.double() for module in tiny_model(settings))
        fit(network, head, crops, settings, folder, choose_device("cpu"))
        return {name: p.detach() for module in (network, head) for name, p in module.named_parameters()}

    return call


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"adaface"}))
@pytest.mark.parametrize("mode", ["paper", "batch", "caffe"])
def test_passes_add_up_to_the_batch(name: str, mode: str, step: Callable[..., State], tmp_path: Path) -> None:
    options = {"head": {"name": name}, "energy": {"mode": mode, "weight": 0.5}, "log_every": 1}
    one = step(tmp_path / "one", **options)
    five = step(tmp_path / "five", accumulate=5, **options)
    for key, tensor in one.items():
        torch.testing.assert_close(five[key], tensor, rtol=1e-9, atol=1e-11)
    for key, value in rows(tmp_path / "one")[0].items():
        assert rows(tmp_path / "five")[0][key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_lambda_counts_batches(passes: int, train: Train, tmp_path: Path) -> None:
    state, _ = train(tmp_path, max_iter=4, accumulate=passes)
    assert int(state["head.iteration"]) == 4
    assert rows(tmp_path)[-1]["lambda"] == pytest.approx(1000 / 5)


def test_long_gradients_are_cut(step: Callable[..., State], tmp_path: Path) -> None:
    network, head = tiny_model(SETTINGS)
    head.weight.data = torch.nn.functional.normalize(head.weight.data.double(), dim=1)  # as the first pass does
    start = {name: p.detach() for module in (network, head) for name, p in module.named_parameters()}

    def norm(**options: Any) -> float:
        changed = step(tmp_path / str(options), **options)
        rate = {name: 2 if name.endswith("bias") else 1 for name in start}
        return math.sqrt(sum(float((start[name] - changed[name]).square().sum()) / rate[name] ** 2 for name in start))

    whole = norm()
    assert whole > 0.1
    assert norm(clip=whole / 2) == pytest.approx(whole / 2, rel=1e-5)
    assert norm(clip=whole * 2) == pytest.approx(whole, rel=1e-9)


def test_the_running_average_is_the_model(crops: CropDataset, tmp_path: Path) -> None:
    """Against the formula, written out over the weights of a run without one; the training itself is the same."""
    network, head = tiny_model(SETTINGS)
    seen: list[State] = []

    def keep(*_: object) -> None:
        modules = torch.nn.ModuleDict({"network": network, "head": head})
        seen.append({name: tensor.clone() for name, tensor in modules.state_dict().items()})

    settings = SETTINGS.model_copy(update={"max_iter": 5})
    fit(network, head, crops, settings, tmp_path / "plain", choose_device("cpu"), on_step=keep)
    expected = dict(seen[0])
    for state in seen[1:]:
        for name, tensor in state.items():
            expected[name] = 0.9 * expected[name] + 0.1 * tensor if tensor.is_floating_point() else tensor
    averaged = settings.model_copy(update={"ema": 0.9, "checkpoint_every": 2})
    with pytest.raises(ZeroDivisionError):
        run(crops, tmp_path / "averaged", averaged, lambda step, _: 1 / (3 - step))  # type: ignore[arg-type, return-value]
    state, _ = run(crops, tmp_path / "averaged", averaged)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-7)
    assert not torch.equal(state["head.weight"], seen[-1]["head.weight"])
    assert rows(tmp_path / "averaged")[-1]["loss"] == rows(tmp_path / "plain")[-1]["loss"]
    again, _ = run(crops, tmp_path / "averaged", averaged)
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items()), "also from its last checkpoint"


def test_bf16_learns_on_the_cpu(train: Train, tmp_path: Path) -> None:
    changes = {"max_iter": 30, "base_lr": 0.02, "precision": "bf16"}
    state, summary = train(tmp_path / "half", **changes)
    whole, _ = train(tmp_path / "whole", **{**changes, "precision": "float32"})
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())
    first = [rows(tmp_path / name)[0]["loss"] for name in ("half", "whole")]
    assert first[0] != first[1] and first[0] == pytest.approx(first[1], rel=0.05)
    assert summary["accuracy"] > 0.8
    assert not torch.equal(state["head.weight"], whole["head.weight"])
    again, _ = train(tmp_path / "again", **changes)
    assert torch.equal(state["head.weight"], again["head.weight"])


def test_fp16_is_for_gpus(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cpu does not support fp16; use bf16 or float32"):
        train(tmp_path, precision="fp16")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same(train: Train, tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "plain", max_iter=3)
    compiled, _ = train(tmp_path / "compiled", max_iter=3, compile=True)
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-5)


def test_epochs(train: Train, tmp_path: Path) -> None:
    """48 crops in batches of 10: 2 epochs are 9.6 steps."""
    _, summary = train(tmp_path, epochs=2, steps=(1,), log_every=1, checkpoint_every=100)
    assert summary["steps"] == 10
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx([0.01] * 5 + [0.001] * 5)


def test_held_out_pairs_are_in_the_history(crops: CropDataset, tmp_path: Path) -> None:
    network, head = tiny_model(SETTINGS)
    asked: list[torch.nn.Module] = []

    def held_out(model: torch.nn.Module) -> dict[str, float]:
        asked.append(model)
        return {"accuracy": len(asked) / 10}

    def called(**changes: Any) -> list[float | None]:
        asked.clear()
        settings = TrainingSettings.model_validate({**SETTINGS.model_dump(), **changes})
        folder = tmp_path / str(changes)
        fit(network, head, crops, settings, folder, choose_device("cpu"), held_out=held_out)
        return [row.get("held_out/accuracy") for row in rows(folder)]

    assert called(max_iter=10, log_every=2, evaluate_every=4) == [None, 0.1, None, 0.2, 0.3]
    assert asked == [network] * 3
    assert called(max_iter=4, log_every=2) == [None, None]
    assert called(max_iter=4, log_every=2, evaluate_every=4, ema=0.5) == [None, 0.1]
    assert asked[0] is not network and type(asked[0]) is type(network)


class Act(torch.nn.BatchNorm2d):
    """A kind with something of its own, as timm's."""


@pytest.mark.parametrize(
    ("kind", "device", "count", "passes", "over"),
    [
        (None, "cpu", 2, 5, 10), (None, "cuda", 2, 1, 10), (torch.nn.BatchNorm2d, "cpu", 1, 1, 10),
        (torch.nn.BatchNorm2d, "cpu", 1, 5, 2), (torch.nn.BatchNorm2d, "cpu", 2, 1, 5),
        (torch.nn.BatchNorm2d, "cuda", 2, 1, 10), (torch.nn.BatchNorm2d, "cuda", 2, 5, 2), (Act, "cuda", 2, 1, 5),
    ],
)  # fmt: skip
def test_batch_normalisation_over_the_batch_or_a_warning(
    kind: type[torch.nn.Module] | None,
    device: str,
    count: int,
    passes: int,
    over: int,
    recwarn: pytest.WarningsRecorder,
) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), kind(4) if kind else torch.nn.ReLU())  # type: ignore[call-arg]
    tensors = network.state_dict(keep_vars=True)
    processes = Processes(choose_device("cpu"))
    processes.count, processes.device = count, Device(torch.device(device))
    turned = normalised_together(network, processes, 10, passes)
    together = kind is torch.nn.BatchNorm2d and device == "cuda"
    assert turned is network and type(network[1]) is (torch.nn.SyncBatchNorm if together else kind or torch.nn.ReLU)
    assert all(tensor is network.state_dict(keep_vars=True)[name] for name, tensor in tensors.items())
    said = [str(warning.message) for warning in recwarn]
    assert len(said) == (over < 10) and all(f"is over {over} crops, not over the batch of 10:" in text for text in said)


@pytest.mark.parametrize("passes", [1, 5])
def test_training_warns_of_batch_normalisation_over_a_pass(passes: int, crops: CropDataset, tmp_path: Path) -> None:
    network = create("sphereface4", feature_size=32, width=0.125, batch_norm=True)
    settings = SETTINGS.model_copy(update={"accumulate": passes, "max_iter": 1})
    with warnings.catch_warnings(record=True) as caught:
        fit(network, tiny_model(settings)[1], crops, settings, tmp_path, choose_device("cpu"))
    assert ["is over 2 crops" in str(warning.message) for warning in caught] == [True] * (passes > 1)


def test_spread_every(train: Train, tmp_path: Path) -> None:
    train(tmp_path, max_iter=6, log_every=1, spread_every=3)
    assert [len(row) > 8 for row in rows(tmp_path)] == [True, False, False, True, False, True]


def test_one_person_is_refused(crops: CropDataset, tmp_path: Path) -> None:
    network, _ = tiny_model(SETTINGS)
    alone = CropDataset(crops.paths[:2], [0, 0], 112, 96)
    with pytest.raises(DatasetError, match="1 person to tell apart; training needs at least two"):
        fit(network, Softmax(32, 1), alone, SETTINGS, tmp_path, choose_device("cpu"))


def test_people_with_few_crops_are_counted(crops: CropDataset, tmp_path: Path) -> None:
    network, head = tiny_model(SETTINGS)
    few = CropDataset(crops.paths[:12], [0] * 8 + [2] + [4] * 3, 112, 96)
    settings = SETTINGS.model_copy(update={"max_iter": 1})
    with pytest.warns(UserWarning) as caught:
        fit(network, head, few, settings, tmp_path, choose_device("cpu"))
    assert [str(warning.message) for warning in caught] == [
        f"3 of {PEOPLE} people have no crop, the first has label 1",
        f"1 of {PEOPLE} people have one crop, the first has label 2",
    ]


def test_crops_of_another_size_are_named(crops: CropDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"\.png: is 96 x 112 pixels, not 112 x 112; align the photos"):
        run(CropDataset(crops.paths, crops.labels.tolist(), 112, 112), tmp_path, SETTINGS)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_sharded_classes_train_and_resume_bit_for_bit(rate: float, train: Train, tmp_path: Path) -> None:
    """In one process, which has all shards: the same run as with a whole head, unless classes are drawn."""
    changes: dict[str, Any] = {"classes": "sharded", "sample_rate": rate, "max_iter": 8, "log_every": 4}
    whole, summary = train(tmp_path / "whole", **changes)
    plain, its_summary = train(tmp_path / "plain", **{**changes, "classes": "replicated", "sample_rate": 1.0})
    same = all(torch.allclose(whole[name], tensor, rtol=1e-4, atol=1e-6) for name, tensor in plain.items())
    assert same == (rate == 1)
    if same:
        assert summary["loss"] == pytest.approx(its_summary["loss"], rel=1e-4)
        assert summary["accuracy"] == its_summary["accuracy"]
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "parts", lambda step, _: 1 / (5 - step), checkpoint_every=3, **changes)
    parts, _ = train(tmp_path / "parts", **changes)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert ("head.draws" in whole) == (rate < 1)


def test_a_sharded_head_is_saved_whole() -> None:
    settings = TrainingSettings.model_validate({**SETTINGS.model_dump(), "classes": "sharded", "sample_rate": 0.5})
    _, head = tiny_model(settings)
    whole = whole_head(head, settings)
    assert whole is not None and type(whole) is HEADS["asoftmax"]
    assert torch.equal(whole.weight, head.weight) and whole.weight.shape == (PEOPLE, 32)


@pytest.mark.parametrize("name", ["sphereface2", "normface"])
def test_the_classifier_of_other_people_leaves_a_new_one_as_it_is(name: str) -> None:
    """Its bias or scale too, which belong to a number of people."""
    options = {"learnable": True} if name == "normface" else {}
    few, same, many = (HEADS[name](8, people, **options) for people in (5, 5, 50))
    with torch.no_grad():
        for parameter in few.parameters():
            parameter.add_(1)
    before = {key: tensor.clone() for key, tensor in many.state_dict().items()}
    assert not copy_classes(few.state_dict(), many) and copy_classes(few.state_dict(), same)
    assert all(torch.equal(tensor, before[key]) for key, tensor in many.state_dict().items())
    assert all(torch.equal(tensor, few.state_dict()[key]) for key, tensor in same.state_dict().items())
