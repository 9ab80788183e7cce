"""The effect of settings: passes, clipping, running average, precision, compiling, held-out pairs."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from slow_cases import mostly_slow, slow
from tiny import PEOPLE, SETTINGS, State, Train, run, tiny_model

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.errors import DatasetError, UsageError
from sfplus.hypersphere import HEADS, Softmax
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training import face_task
from sfplus.training.face_task import fit

PLAIN = {"max_iter": 1, "base_lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "energy": None}
"""Settings with which a step changes the weights by the gradient."""


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture
def step(crops: CropDataset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., State]:
    """Return a function that returns the parameters after one step of `PLAIN` in float64."""
    monkeypatch.setattr(face_task, "normalize_crops", lambda crops: normalize_crops(crops).double())

    def call(folder: Path, **changes: Any) -> State:
        settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **PLAIN, **changes})
        network, head = (module.double() for module in tiny_model(settings))
        fit(network, head, crops, settings, folder, choose_device("cpu"))
        return {name: p.detach() for module in (network, head) for name, p in module.named_parameters()}

    return call


@pytest.mark.parametrize(
    ("name", "mode"),
    mostly_slow(
        itertools.product(sorted(HEADS.keys() - {"adaface"}), ("paper", "batch", "caffe")),
        [("asoftmax", "paper"), ("normface", "batch"), ("sphereface2", "caffe")],
    ),
)
def test_accumulated_passes_equal_one_batch(name: str, mode: str, step: Callable[..., State], tmp_path: Path) -> None:
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


def test_gradient_norm_is_clipped(step: Callable[..., State], tmp_path: Path) -> None:
    network, head = tiny_model(SETTINGS)
    head.weight.data = torch.nn.functional.normalize(head.weight.data.double(), dim=1)  # as in the first pass
    start = {name: p.detach() for module in (network, head) for name, p in module.named_parameters()}

    def norm(**options: Any) -> float:
        changed = step(tmp_path / str(options), **options)
        rate = {name: 2 if name.endswith("bias") else 1 for name in start}
        return math.sqrt(sum(float((start[name] - changed[name]).square().sum()) / rate[name] ** 2 for name in start))

    unclipped = norm()
    assert unclipped > 0.1
    assert norm(clip=unclipped / 2) == pytest.approx(unclipped / 2, rel=1e-5)
    assert norm(clip=unclipped * 2) == pytest.approx(unclipped, rel=1e-9)


def test_running_average_replaces_the_weights(crops: CropDataset, tmp_path: Path) -> None:
    """Compare with the formula, applied to the weights of a run without average."""
    network, head = tiny_model(SETTINGS)
    states: list[State] = []

    def keep(*_: object) -> None:
        modules = torch.nn.ModuleDict({"network": network, "head": head})
        states.append({name: tensor.clone() for name, tensor in modules.state_dict().items()})

    settings = SETTINGS.model_copy(update={"max_iter": 5})
    fit(network, head, crops, settings, tmp_path / "plain", choose_device("cpu"), on_step=keep)
    expected = dict(states[0])
    for state in states[1:]:
        for name, tensor in state.items():
            expected[name] = 0.9 * expected[name] + 0.1 * tensor if tensor.is_floating_point() else tensor
    averaged = settings.model_copy(update={"ema": 0.9, "checkpoint_every": 2})
    with pytest.raises(ZeroDivisionError):
        run(crops, tmp_path / "averaged", averaged, lambda step, _: 1 / (3 - step))  # type: ignore[arg-type, return-value]
    state, _ = run(crops, tmp_path / "averaged", averaged)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-7)
    assert not torch.equal(state["head.weight"], states[-1]["head.weight"])
    assert rows(tmp_path / "averaged")[-1]["loss"] == rows(tmp_path / "plain")[-1]["loss"]
    again, _ = run(crops, tmp_path / "averaged", averaged)
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items()), (
        "a finished run returns the average too"
    )


@pytest.mark.slow
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


def test_fp16_is_refused_on_the_cpu(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cpu does not support fp16; use bf16 or float32"):
        train(tmp_path, precision="fp16")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_network_learns_the_same(train: Train, tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "plain", max_iter=3)
    compiled, _ = train(tmp_path / "compiled", max_iter=3, compile=True)
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-5)


def test_epochs_are_converted_to_steps(train: Train, tmp_path: Path) -> None:
    """Two epochs of 48 crops in batches of 10 are 9.6 steps."""
    _, summary = train(tmp_path, epochs=2, steps=(1,), log_every=1, checkpoint_every=100)
    assert summary["steps"] == 10
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx([0.01] * 5 + [0.001] * 5)


def test_held_out_evaluations_are_in_the_history(crops: CropDataset, tmp_path: Path) -> None:
    network, head = tiny_model(SETTINGS)
    models: list[torch.nn.Module] = []

    def held_out(model: torch.nn.Module) -> dict[str, float]:
        models.append(model)
        return {"accuracy": len(models) / 10}

    def evaluate(**changes: Any) -> list[float | None]:
        models.clear()
        settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **changes})
        folder = tmp_path / str(changes)
        fit(network, head, crops, settings, folder, choose_device("cpu"), held_out=held_out)
        return [row.get("held_out/accuracy") for row in rows(folder)]

    assert evaluate(max_iter=10, log_every=2, evaluate_every=4) == [None, 0.1, None, 0.2, 0.3]
    assert models == [network] * 3
    assert evaluate(max_iter=4, log_every=2) == [None, None]
    assert evaluate(max_iter=4, log_every=2, evaluate_every=4, ema=0.5) == [None, 0.1]
    assert models[0] is not network and type(models[0]) is type(network)


def test_uniformity_is_logged_every_few_rows(train: Train, tmp_path: Path) -> None:
    train(tmp_path, max_iter=6, log_every=1, spread_every=3)
    assert [len(row) > 8 for row in rows(tmp_path)] == [True, False, False, True, False, True]


def test_one_person_is_refused(crops: CropDataset, tmp_path: Path) -> None:
    network, _ = tiny_model(SETTINGS)
    alone = CropDataset(crops.paths[:2], [0, 0], 112, 96)
    with pytest.raises(DatasetError, match="there is only 1 person; training needs at least two"):
        fit(network, Softmax(32, 1), alone, SETTINGS, tmp_path, choose_device("cpu"))


@pytest.mark.parametrize("people", [(), ("Ada", "Ben", "Cy", "Dan", "Eve", "Fay")])
def test_people_with_few_crops_are_named_in_a_warning(
    people: tuple[str, ...], crops: CropDataset, tmp_path: Path
) -> None:
    names = people or [f"label {label}" for label in range(PEOPLE)]
    network, head = tiny_model(SETTINGS)
    few = CropDataset(crops.paths[:12], [0] * 8 + [2] + [4] * 3, 112, 96, people)
    settings = SETTINGS.model_copy(update={"max_iter": 1})
    with pytest.warns(UserWarning) as caught:
        fit(network, head, few, settings, tmp_path, choose_device("cpu"))
    assert [str(warning.message) for warning in caught] == [
        f"3 of {PEOPLE} people have no crop: {names[1]}, {names[3]}, {names[5]}",
        f"1 of {PEOPLE} people has one crop: {names[2]}",
    ]


def test_crops_of_another_size_are_refused(crops: CropDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"\.png: is 112x96 pixels, not 112x112; align the photos"):
        run(CropDataset(crops.paths, crops.labels.tolist(), 112, 112), tmp_path, SETTINGS)


@pytest.mark.parametrize("rate", [slow(1.0), 0.5])
def test_sharded_classes_train_and_resume_bit_for_bit(rate: float, train: Train, tmp_path: Path) -> None:
    """A single process with all shards trains like a replicated head, unless classes are sampled."""
    changes: dict[str, Any] = {"classes": "sharded", "sample_rate": rate, "max_iter": 8, "log_every": 4}
    whole, summary = train(tmp_path / "whole", **changes)
    plain, plain_summary = train(tmp_path / "plain", **{**changes, "classes": "replicated", "sample_rate": 1.0})
    same = all(torch.allclose(whole[name], tensor, rtol=1e-4, atol=1e-6) for name, tensor in plain.items())
    assert same == (rate == 1)
    if same:
        assert summary["loss"] == pytest.approx(plain_summary["loss"], rel=1e-4)
        assert summary["accuracy"] == plain_summary["accuracy"]
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "parts", lambda step, _: 1 / (5 - step), checkpoint_every=3, **changes)
    parts, _ = train(tmp_path / "parts", **changes)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert ("head.draws" in whole) == (rate < 1)
