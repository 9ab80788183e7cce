from __future__ import annotations

import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from slow_cases import mostly_slow, slow
from tiny import PEOPLE, SETTINGS, Train, Uninterrupted, is_equal, run, stop_at, tiny_model

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.errors import DatasetError, TrainingError
from sfplus.hypersphere import HEADS, ASoftmax, class_energy, measure_uniformity
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training.face_task import fit
from sfplus.training.sampling import draw_flips, draw_indices

FAST_HEADS = [("asoftmax", "paper"), ("adaface", "batch"), ("sphereface2", "caffe")]


def test_steps_match_a_plain_loop(train: Train, crops: CropDataset, tmp_path: Path) -> None:
    """Compare with a plain loop without checkpoints and Accelerate, with Caffe's update written out."""
    state, _ = train(tmp_path, max_iter=5, steps=(3,), momentum=0.9)
    settings = SETTINGS.model_copy(update={"steps": (3,)})
    network, head = tiny_model(settings)
    trained = {name: p for name, p in [*network.named_parameters(), ("head", head.weight)] if p.requires_grad}
    velocity = {name: torch.zeros_like(p) for name, p in trained.items()}
    for step in range(1, 6):
        indices, flips = draw_indices(step, len(crops), 10, settings.seed), draw_flips(step, settings)
        photos = torch.stack([crops[i][0].flip(1) if f else crops[i][0] for i, f in zip(indices, flips, strict=True)])
        labels = crops.labels[torch.from_numpy(indices)]
        loss = F.cross_entropy(head.logits(network(normalize_crops(photos)), labels), labels)
        loss = loss + 0.5 * class_energy(head.weight, labels, 2)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        rate = 0.01 if step <= 3 else 0.001
        with torch.no_grad():
            for (name, p), gradient in zip(trained.items(), gradients, strict=True):
                bias = name.endswith("bias")
                velocity[name].mul_(0.9).add_(rate * (2 * gradient if bias else gradient + 5e-4 * p))
                p -= velocity[name]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(state[f"network.{name}"], tensor, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(state["head.weight"], head.weight.detach(), rtol=1e-4, atol=1e-6)
    assert int(state["head.iteration"]) == 5


def test_history_and_summary(uninterrupted: Uninterrupted, train: Train, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (uninterrupted[1] / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    names = ["step", "epoch", "loss", "accuracy", "lambda", "lr", "energy", "feature_length"]
    assert all(list(row)[: len(names)] == names for row in rows)
    layers = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "fc5", "head"]
    values = ["energy", "excess", "mean_nearest", "min_angle", "redundancy"]
    assert list(rows[0])[len(names) :] == [f"spread/{layer}/{value}" for layer in layers for value in values]
    last = measure_uniformity(uninterrupted[0]["head.weight"], 2)
    assert [rows[-1][f"spread/head/{value}"] for value in values] == [getattr(last, value) for value in values]
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001])
    assert [row["lambda"] for row in rows] == pytest.approx([1000 / (1 + row["step"]) for row in rows])
    assert rows[0]["epoch"] == pytest.approx(40 / 48)
    calls: list[tuple[int, dict[str, Any]]] = []
    _, summary = train(tmp_path, lambda step, row: calls.append((step, row)), max_iter=6, energy=None)
    assert [step for step, row in calls] == [1, 2, 3, 4, 5, 6]
    assert [step for step, row in calls if row] == [4, 6], "every fourth step and the last"
    assert calls[3][1]["crops_per_second"] > 0 and calls[3][1]["energy"] is None
    assert summary["steps"] == 6 and summary["seconds"] > 0
    assert summary["loss"] == calls[5][1]["loss"] and summary["accuracy"] == calls[5][1]["accuracy"]


def test_first_row_matches_its_definitions(train: Train, crops: CropDataset, tmp_path: Path) -> None:
    train(tmp_path, max_iter=1, log_every=1)
    row = json.loads((tmp_path / "history.jsonl").read_text())
    network, head = tiny_model(SETTINGS)
    indices, flips = draw_indices(1, len(crops), 10, 0), draw_flips(1, SETTINGS)
    photos = torch.stack([crops[i][0].flip(1) if f else crops[i][0] for i, f in zip(indices, flips, strict=True)])
    labels = crops.labels[torch.from_numpy(indices)]
    features = network(normalize_crops(photos))
    assert row["loss"] == pytest.approx(float(head(features, labels).detach()), rel=1e-4)
    assert row["accuracy"] == pytest.approx(float((head.predict(features).argmax(1) == labels).float().mean()))
    assert row["feature_length"] == pytest.approx(float(features.norm(dim=1).mean().detach()), rel=1e-4)
    assert row["energy"] == pytest.approx(float(class_energy(head.weight, labels, 2).detach()), rel=1e-4)


def test_training_set_is_learnt_perfectly(train: Train, tmp_path: Path) -> None:
    _, summary = train(tmp_path, max_iter=40, steps=(30,), base_lr=0.02, checkpoint_every=40)
    assert summary["accuracy"] == 1.0 and summary["loss"] < 0.1


def test_runs_repeat_bit_for_bit(uninterrupted: Uninterrupted, train: Train, tmp_path: Path) -> None:
    state, _ = train(tmp_path)
    assert is_equal(state, uninterrupted[0])
    assert (tmp_path / "history.jsonl").read_bytes() == (uninterrupted[1] / "history.jsonl").read_bytes()
    reseeded, _ = train(tmp_path / "reseeded", seed=1)
    assert not is_equal(reseeded, uninterrupted[0])


@pytest.mark.parametrize("step", mostly_slow([3, 6, 13, 20], [13]))
def test_resumed_run_equals_an_uninterrupted_one(
    step: int, uninterrupted: Uninterrupted, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, stop_at(step, ZeroDivisionError()))
    steps: list[int] = []
    state, summary = train(tmp_path, lambda done, row: steps.append(done))
    assert steps[:1] == ([step // 6 * 6 + 1] if step < 20 else []), "the run continues from its last checkpoint"
    assert is_equal(state, uninterrupted[0])
    assert (tmp_path / "history.jsonl").read_bytes() == (uninterrupted[1] / "history.jsonl").read_bytes()
    assert math.isfinite(summary["loss"])


def test_run_resumed_twice_with_different_checkpoints_equals_an_uninterrupted_one(
    uninterrupted: Uninterrupted, train: Train, tmp_path: Path
) -> None:
    for step in (7, 11):
        with pytest.raises(ZeroDivisionError):
            train(tmp_path, stop_at(step, ZeroDivisionError()), checkpoint_every=step - 2)
    torch.manual_seed(12345)  # the state of the caller's generator must not matter
    state, _ = train(tmp_path, checkpoint_every=100)
    assert is_equal(state, uninterrupted[0])


@pytest.mark.parametrize(
    ("name", "mode"), mostly_slow(itertools.product(HEADS, ("paper", "batch", "caffe")), FAST_HEADS)
)
def test_all_heads_and_energies_train_and_resume_bit_for_bit(
    name: str, mode: str, train: Train, tmp_path: Path
) -> None:
    changes = {"head": {"name": name}, "energy": {"mode": mode, "weight": 0.1}, "max_iter": 4, "log_every": 2}
    whole, summary = train(tmp_path / "whole", **changes)
    assert math.isfinite(summary["loss"])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halves", stop_at(2, KeyboardInterrupt()), **changes)
    halves, _ = train(tmp_path / "halves", **changes)
    assert is_equal(whole, halves)
    rows = [(tmp_path / part / "history.jsonl").read_bytes() for part in ("whole", "halves")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "settings", [slow({"augment": 1.0}), slow({"sampler": "balanced", "per_person": 2, "accumulate": 5})]
)
def test_augmented_and_sampled_runs_resume_bit_for_bit(
    settings: dict[str, Any], uninterrupted: Uninterrupted, train: Train, tmp_path: Path
) -> None:
    whole, _ = train(tmp_path / "whole", **settings)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "cut", stop_at(8, ZeroDivisionError()), **settings)
    cut, _ = train(tmp_path / "cut", **settings)
    assert is_equal(whole, cut) and not is_equal(whole, uninterrupted[0])


def test_finished_run_is_not_continued(train: Train, tmp_path: Path) -> None:
    state, summary = train(tmp_path, max_iter=4)
    again, second_summary = train(tmp_path, stop_at(1, AssertionError()), max_iter=4)
    assert is_equal(state, again) and second_summary["loss"] == summary["loss"]


@pytest.mark.parametrize(
    "change", [{"base_lr": 0.02}, {"batch_size": 8}, {"seed": 1}, {"max_iter": 30}, {"energy": None}]
)
def test_checkpoint_of_other_settings_is_refused(train: Train, tmp_path: Path, change: dict[str, Any]) -> None:
    train(tmp_path, max_iter=2)
    with pytest.raises(TrainingError, match="other settings or other data"):
        train(tmp_path, **{"max_iter": 2, **change})


def test_checkpoint_of_other_crops_is_refused(train: Train, crops: CropDataset, tmp_path: Path) -> None:
    train(tmp_path)
    fewer = CropDataset(crops.paths[1:], crops.labels[1:].tolist(), 112, 96)
    with pytest.raises(TrainingError, match="other settings or other data"):
        run(fewer, tmp_path, SETTINGS)


def test_message_about_a_non_finite_loss_names_a_remedy(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, base_lr=1e6, log_every=1, checkpoint_every=100)
    text = str(caught.value)
    assert "at step" in text and "lambda" in text and "learning rate 1e+06" in text and "smaller base_lr" in text
    assert "\n" not in text and str(tmp_path) in text


def test_checkpoints_hold_finite_weights_only(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the weights are not finite at step \d \(lambda .*smaller base_lr"):
        train(tmp_path, base_lr=1e30, log_every=100, checkpoint_every=1)
    for file in tmp_path.glob("checkpoint-*/module.safetensors"):
        assert all(tensor.isfinite().all() for tensor in safetensors.torch.load_file(file).values())


def test_loss_at_chance_gives_one_warning(crops: CropDataset, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"base_lr": 1e-30, "log_every": 1, "energy": None})
    network, head = tiny_model(settings)
    with torch.no_grad():
        network.fc5.weight.zero_()  # type: ignore[union-attr, operator]
    with pytest.warns(UserWarning, match=r"1\.792 = ln\(6\), which is chance") as caught:
        fit(network, head, crops, settings, tmp_path, choose_device("cpu"))
    assert len(caught) == 1


def test_successful_run_gives_no_warning(train: Train, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, max_iter=8, log_every=1)


def test_labels_beyond_the_head_are_refused(crops: CropDataset, tmp_path: Path) -> None:
    network, _ = tiny_model(SETTINGS)
    with pytest.raises(DatasetError, match=f"label 5 is beyond the {PEOPLE - 1} classes"):
        fit(network, ASoftmax(32, PEOPLE - 1), crops, SETTINGS, tmp_path, choose_device("cpu"))


def test_only_frozen_parameters_stay(uninterrupted: Uninterrupted) -> None:
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), "network": "sphereface10"})
    network, _ = tiny_model(settings)
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert len(frozen) == 6
    before, _ = tiny_model(SETTINGS)
    moved = [name for name, p in before.state_dict().items() if not torch.equal(p, uninterrupted[0][f"network.{name}"])]
    assert set(moved) == set(before.state_dict()), "all other parameters are trained"
    np.testing.assert_allclose(uninterrupted[0]["head.weight"].norm(dim=1).numpy(), 1, atol=0.05)


@pytest.mark.parametrize("precision", mostly_slow(["float32", "bf16"], ["float32"]))
def test_training_inside_an_autocast_of_the_program_is_not_changed(
    precision: str, train: Train, tmp_path: Path
) -> None:
    """Autocast keeps 16-bit copies of weights until its outermost context ends, also when it is disabled."""
    expected, _ = train(tmp_path / "alone", precision=precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "float32"):
        state, _ = train(tmp_path / "inside", precision=precision)
    assert is_equal(state, expected)
