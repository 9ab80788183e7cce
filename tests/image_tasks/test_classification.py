"""The classification task: losses in closed form, weight decay as a term of the loss, exact resuming."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slow_cases import slow
from torch import Tensor, nn

from sfplus.device import choose_device
from sfplus.hypersphere import HypersphericalEnergy, orthonormal_penalty
from sfplus.image_tasks.classification import ClassificationTask, Orthonormality, create_regularizer, smoothed_entropy
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.random_crop import draw_crops, random_crop
from sfplus.networks.normalize import normalize_images
from sfplus.recipes.settings.classify import NETWORK_KEYS, ClassifySettings, RegularizerSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import train
from sfplus.training.history import read_rows
from sfplus.training.sampling import draw_indices


def images(count: int, classes: int = 3, side: int = 8) -> SmallImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    return SmallImages(images, torch.arange(count) % classes, tuple(map(str, range(classes))))


def make_settings(**options: Any) -> ClassifySettings:
    small = {"network": "cnn6", "width": 4, "max_iter": 6, "steps": [4], "batch_size": 8, "log_every": 1,
             "test_every": 3, "checkpoint_every": 2}  # fmt: skip
    return ClassifySettings.model_validate(small | options)


def task(settings: ClassifySettings, digest: str = "") -> ClassificationTask:
    torch.manual_seed(settings.seed)
    network = create_classifier(settings.network, 3, size=8, **settings.model_dump(include=NETWORK_KEYS))
    return ClassificationTask(network, images(20), images(7), settings, ProcessGroup(choose_device("cpu")), digest)


@pytest.mark.parametrize(("smoothing", "offset"), list(itertools.product([0.0, 0.01, 0.3], [0.0, 1e-4, 0.1])))
def test_smoothed_entropy_matches_numpy(smoothing: float, offset: float) -> None:
    random = np.random.default_rng(0)
    logits, labels = 5 * random.normal(size=(6, 4)), random.integers(0, 4, 6)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) + offset
    targets = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    expected = -(targets * np.log(shares)).sum(1).mean()
    entropy = smoothed_entropy(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), smoothing, offset)
    assert entropy.item() == pytest.approx(expected, rel=1e-5)


def test_offset_removes_the_gradient_of_improbable_labels() -> None:
    logits = torch.tensor([[40.0, 0.0]], requires_grad=True)
    loss = smoothed_entropy(logits, torch.tensor([1]), 0.0, 1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-math.log(1e-4)) and logits.grad is not None
    assert logits.grad.abs().max() < 1e-12  # 1 for the usual cross-entropy; a network with such logits does not learn


@pytest.mark.parametrize(
    ("power", "hidden", "output", "at_random"),
    [
        # architecture.py of MHE: weights of the hidden layers and of the last, and the energy of random directions.
        (0, 1, 10, -math.log(2)),
        (1, 1, 10, 1 / math.sqrt(2)),
        (2, 1, 10, 0.5),
        ("a0", 1, 10, math.log(2)),
        ("a1", 0.1, 1, 2),
        ("a2", 0.1, 1, 4),
    ],
)
def test_default_energy_weights_are_the_released_ones(
    power: int | str, hidden: float, output: float, at_random: float
) -> None:
    torch.manual_seed(0)
    network = create_classifier("cnn9", 100)
    energy = create_regularizer(network, RegularizerSettings(mode="mhe", power=power))  # type: ignore[arg-type]
    assert isinstance(energy, HypersphericalEnergy) and energy is not None
    assert energy().item() == pytest.approx((10 * hidden + output) * at_random, rel=0.03)
    assert len(energy.values) == 11 and (energy.hidden, energy.output) == (hidden, output)


@pytest.mark.parametrize(
    ("mode", "hidden"),
    [
        ("comhe-random", 5.1348),  # CoMHE's logs at iteration 0: thom, the sum of ten hidden layers
        ("comhe-angle", 5.1797),
        ("comhe-adversarial", 5.1808),
        ("comhe-group", 5.0465),  # random directions of 27, 72, 144, 288 and 512 dimensions in closed form
    ],
)
def test_initial_comhe_energies_match_the_logs(mode: str, hidden: float) -> None:
    torch.manual_seed(0)
    network = create_classifier("cnn9", 100)
    energy = create_regularizer(network, RegularizerSettings(mode=mode, half_space=True))  # type: ignore[arg-type]
    assert energy is not None
    energy()
    last = energy.values.pop("score")
    assert sum(energy.values.values()).item() == pytest.approx(hidden, rel=4e-3)  # type: ignore[union-attr]
    assert last.item() == pytest.approx(0.502, abs=0.002)  # thomf: ten times that


@pytest.mark.parametrize("orthogonal", [False, True])
def test_orthonormal_penalty_of_hidden_layers(orthogonal: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Conv2d(4, 5, 1), nn.Linear(5, 3))
    penalty = Orthonormality(network, 0.5, orthogonal)
    weights = [network[0].weight, network[1].weight.flatten(1)]
    expected = torch.zeros(())
    for weight in weights:
        gram = weight @ weight.T
        if orthogonal:
            expected = expected + sum(gram[i, j] ** 2 for i in range(len(gram)) for j in range(i))
        else:
            expected = expected + orthonormal_penalty(weight)
    assert penalty().item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert list(penalty.values) == ["0", "1"]  # not the last layer


def by_hand(settings: ClassifySettings, steps: int, angles: bool) -> dict[str, Tensor]:
    """Train like TensorFlow, with weight decay and orthonormality as terms of the loss."""
    torch.manual_seed(settings.seed)
    network = create_classifier(settings.network, 3, size=8, **settings.model_dump(include=NETWORK_KEYS)).train()
    train_set = images(20)
    spheres = [name for name, m in network.named_modules() if type(m).__name__ == "SphereConv2d"]
    velocities = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for step in range(1, steps + 1):
        indices = draw_indices(step, 20, settings.batch_size, settings.seed)
        crops = draw_crops(settings.seed, step, settings.batch_size, (8, 8))
        x = normalize_images(random_crop(train_set.batch(indices), crops))
        loss = smoothed_entropy(network(x), train_set.labels[indices], 0.01, 1e-4)
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[0] not in spheres:
                loss = loss + settings.weight_decay * parameter.square().sum() / 2
        for name in spheres:
            loss = loss + 2e-4 * orthonormal_penalty(network.get_parameter(f"{name}.weight"))
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None
                velocities[name] = 0.9 * velocities[name] + parameter.grad
                parameter -= settings.base_lr * (0.1 if step > 4 else 1) * velocities[name]
    return network.state_dict()


@pytest.mark.parametrize(("operator", "rescale"), [("none", False), ("cosine", False), ("linear", True)])
def test_training_matches_the_original(operator: str, rescale: bool, tmp_path: Path) -> None:
    settings = make_settings(operator=operator, rescale=rescale, base_lr=0.02, weight_decay=0.05)
    run = task(settings)
    train(run, settings, tmp_path, run.processes)
    expected = by_hand(settings, 6, operator != "none")
    for name, value in run.network.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    "energy",
    [
        slow({"mode": "none"}),
        {"mode": "mhe", "power": "a1"},
        slow({"mode": "orthonormal"}),
        {"mode": "comhe-random", "half_space": True, "dim": 3},
        *(slow({"mode": f"comhe-{kind}", "half_space": True, "dim": 3}) for kind in ("angle", "adversarial", "group")),
    ],
    ids=lambda energy: energy["mode"],
)
def test_interrupted_classification_ends_with_the_same_bits(energy: dict[str, Any], tmp_path: Path) -> None:
    optimizer = "adam" if energy["mode"] in ("none", "comhe-random") else "sgd"
    settings = make_settings(energy=energy, optimizer=optimizer, base_lr=0.01)
    whole = task(settings, "same")
    train(whole, settings, tmp_path / "whole", whole.processes)
    interrupted = task(settings, "same")

    def stop(step: int, row: dict[str, Any]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(interrupted, settings, tmp_path / "parts", interrupted.processes, stop)
    resumed = task(settings, "same")
    train(resumed, settings, tmp_path / "parts", resumed.processes)
    for name, value in whole.modules.state_dict().items():
        assert torch.equal(value, resumed.modules.state_dict()[name]), name
    rows = [read_rows(tmp_path / run / "history.jsonl") for run in ("whole", "parts")]
    assert rows[0] == rows[1] and len(rows[0]) == 6


def test_history_has_energies_and_the_best_accuracy(tmp_path: Path) -> None:
    settings = make_settings(energy={"mode": "mhe", "power": 0}, max_iter=9)
    run = task(settings)
    train(run, settings, tmp_path, run.processes)
    rows = read_rows(tmp_path / "history.jsonl")
    assert [row["step"] for row in rows if "accuracy" in row] == [3, 6, 9]
    evaluations = [row for row in rows if "accuracy" in row]
    assert [row["best_accuracy"] for row in evaluations] == list(
        itertools.accumulate((row["accuracy"] for row in evaluations), max)
    )
    assert len([name for name in rows[0] if name.startswith("energy.")]) == 8
    assert evaluations[-1]["accuracy"] == pytest.approx(
        (run.predict(run.test) == run.test.labels).float().mean().item()
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_classification_inside_an_autocast_of_the_program_is_not_changed(precision: str, tmp_path: Path) -> None:
    """The evaluation after a step has the new weights, of which autocast keeps no copies."""
    settings = make_settings(precision=precision, max_iter=3, base_lr=1.0)
    results = []
    for folder, enabled in (("alone", False), ("inside", True)):
        run = task(settings)
        predicted: list[Tensor] = []
        run.predict = lambda test, run=run, seen=predicted: seen.append(run.features(test)) or test.labels  # type: ignore[method-assign,misc,func-returns-value]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            train(run, settings, tmp_path / folder, run.processes)
        assert torch.equal(predicted[-1], run.features(run.test))
        results.append(run.modules.state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_learning_rates_of_warmup_and_steps(tmp_path: Path) -> None:
    settings = make_settings(warmup=3, base_lr=0.3)
    run = task(settings)
    train(run, settings, tmp_path, run.processes)
    rates = [row["rate"] for row in read_rows(tmp_path / "history.jsonl")]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.03, 0.03])


def test_bf16_stays_close_to_float32(tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bf16"):
        settings = make_settings(precision=precision, max_iter=2)
        run = task(settings)
        train(run, settings, tmp_path / precision, run.processes)
        losses.append(read_rows(tmp_path / precision / "history.jsonl")[0]["loss"])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": [3, 2]}, "rising"),
        ({"test_every": 3, "log_every": 2}, "multiple"),
        ({"energy": {"mode": "comhe-random", "power": "a1"}}, "distances"),
        ({"energy": {"mode": "mha"}}, "mhe"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_settings(**options)


def test_entropy_without_offset_is_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(smoothed_entropy(logits, labels, 0.1, 0), F.cross_entropy(logits, labels, label_smoothing=0.1))
