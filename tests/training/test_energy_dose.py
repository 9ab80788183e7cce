"""The dose of an energy against the movement of classifiers in runs, and against its closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfplus.hypersphere import class_energy
from sfplus.hypersphere.riesz_kernel import Kernel
from sfplus.recipes.load import find_recipe, load_recipe
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training.energy_dose import EnergyDose, energy_dose, mean_push
from sfplus.training.optimizer import create_caffe_sgd, set_learning_rate
from sfplus.training.schedule import learning_rate


def settings_of(**values: Any) -> TrainSettings:
    defaults = {"max_iter": 60, "steps": (30, 50), "base_lr": 0.05, "energy": {"mode": "paper", "weight": 5.0}}
    return TrainSettings.model_validate(defaults | values)


def classifiers(classes: int = 80, size: int = 24, length: float = 1.0) -> Tensor:
    weights = torch.randn(classes, size, generator=torch.Generator().manual_seed(0))
    return length * weights / weights.norm(dim=1, keepdim=True)


def turned(weights: Tensor, settings: TrainSettings, labels: Any) -> float:
    """Return by how many degrees classifiers turn on average, trained by the energy alone."""
    energy, module = settings.energy, torch.nn.Linear(*weights.shape[::-1], bias=False)
    assert energy is not None
    module.weight.data.copy_(weights)
    optimizer = create_caffe_sgd(module, lr=settings.base_lr, momentum=settings.momentum, weight_decay=0.0)
    for step in range(1, settings.max_iter + 1):
        set_learning_rate(optimizer, learning_rate(step, settings), caffe_momentum=True)
        optimizer.zero_grad()
        (energy.weight * class_energy(module.weight, labels(), energy.power, energy.mode)).backward()
        optimizer.step()
    cosines = torch.nn.functional.cosine_similarity(module.weight.detach().double(), weights.double()).clamp(-1, 1)
    return math.degrees(float(cosines.acos().mean()))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("mode", ["paper", "batch"])
@pytest.mark.parametrize("length", [1.0, 2.0])
def test_the_dose_is_the_movement_of_classifiers_that_nothing_opposes(mode: str, power: float, length: float) -> None:
    settings = settings_of(energy={"mode": mode, "power": power, "weight": 0.5})
    weights = classifiers(length=length)
    dose = energy_dose(weights, settings)
    assert dose is not None and dose.degrees < 3
    actual = turned(weights, settings, lambda: torch.arange(len(weights)))
    assert actual == pytest.approx(dose.degrees, rel=0.12)


def test_the_dose_holds_for_batches_of_drawn_labels() -> None:
    settings = settings_of(max_iter=400, steps=(300,), energy={"mode": "paper", "weight": 0.1})
    weights, generator = classifiers(), torch.Generator().manual_seed(1)
    dose = energy_dose(weights, settings)
    assert dose is not None
    actual = turned(weights, settings, lambda: torch.randint(0, len(weights), (32,), generator=generator))
    assert actual == pytest.approx(dose.degrees, rel=0.2)


def test_doses_are_proportional_to_the_weight_and_inverse_to_the_number_of_classes() -> None:
    base = energy_dose(classifiers(), settings_of())
    tenfold = energy_dose(classifiers(), settings_of(energy={"mode": "paper", "weight": 50.0}))
    many = energy_dose(classifiers(classes=3200), settings_of())
    assert base and tenfold and many
    assert tenfold.degrees == pytest.approx(10 * base.degrees)
    assert base.weight_for(1) == pytest.approx(tenfold.weight_for(1)) and base.weight_of_sum == 80 * 79
    # 2/N of the mean over pairs, and 1/sqrt(N) of a mean of random pushes
    assert base.degrees / many.degrees == pytest.approx(40**1.5, rel=0.2)


def test_the_published_schedule_moves_classifiers_of_m_4_by_hundredths_of_a_degree() -> None:
    """The push of random directions is 1/2 / sqrt(N) for s = 2: 0.5 is |d(z^-2)/dangle| at 90 degrees."""
    weights = classifiers(10_572, 512)
    assert mean_push(weights, Kernel(2.0)) == pytest.approx(0.5 / math.sqrt(10_572), rel=0.1)
    solver = {"base_lr": 0.01, "steps": (4000, 6000), "max_iter": 8000, "momentum": 0.9}
    dose = energy_dose(weights, settings_of(**solver, energy={"mode": "paper", "weight": 1.0}))
    assert dose is not None and dose.degrees == pytest.approx(
        math.degrees(42.2 / 0.1 * 2 / 10_572 * 0.5 / math.sqrt(10_572)), rel=0.1
    )
    assert 0.01 < dose.degrees < 0.04


def test_two_opposed_classifiers_are_at_rest() -> None:
    dose = energy_dose(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), settings_of())
    assert dose is not None and dose.degrees == pytest.approx(0, abs=1e-6) and dose.weight_for(1) > 1e6


@pytest.mark.parametrize("energy", [None, {"mode": "caffe", "weight": 10.0}])
def test_there_is_no_dose_without_an_energy_of_pairs(energy: object) -> None:
    assert energy_dose(classifiers(), settings_of(energy=energy)) is None


def test_a_small_dose_names_the_weight_of_one_degree() -> None:
    text = EnergyDose(0.025, 1.0, 8000, 10572).describe()
    assert text == (
        "energy: a weight of 1 can turn each of 10,572 classifiers by about 0.025 degrees in 8,000 steps; "
        "for one degree: 40"
    )
    assert "for one degree" not in EnergyDose(12.0, 10.0, 300, 623).describe()
    assert "by about 880 degrees in" in EnergyDose(881.2, 100.0, 2400, 623).describe()
    assert EnergyDose(1e-4, 1.0, 10, 20).describe().endswith("for one degree: 10,000")


@pytest.mark.parametrize(("m", "rates", "degrees"), [(1, 390, 0.205), (2, 530, 0.28), (3, 453, 0.24), (4, 42.2, 0.022)])
def test_the_doses_of_the_published_schedules_are_those_of_the_guide(m: int, rates: float, degrees: float) -> None:
    settings = load_recipe(find_recipe(f"sphereface-plus-m{m}")).finetune
    assert settings is not None
    total = sum(learning_rate(step, settings) for step in range(1, settings.max_iter + 1))
    assert total == pytest.approx(rates)
    dose = energy_dose(classifiers(10_572, 512), settings)
    assert dose is not None and dose.degrees == pytest.approx(degrees, rel=0.04)
