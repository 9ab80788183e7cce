"""Results of a sweep: the difference of a configuration from its control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfplus.artifacts.artefact import Artefact
from sfplus.cli.step_results import StepResult
from sfplus.cli.sweep_results import difference_from
from sfplus.datasets.pairs import Pairs
from sfplus.verification.result import Result
from sfplus.verification.significance import mcnemar

COUNT = 400
SAME, FOLD = np.arange(COUNT) % 2 == 0, np.arange(COUNT) // 2 % 2
PAIRS = Pairs(
    tuple(f"P{i // 2}/left{i}" for i in range(COUNT)),
    tuple(f"P{(i // 2 + (i % 2)) % 200}/right{i}" for i in range(COUNT)),
    SAME, FOLD,
)  # fmt: skip


def verified(correct: np.ndarray) -> StepResult:
    scores = np.where(correct == SAME, 1.0, -1.0)
    accuracy = np.array([correct[k == FOLD].mean() for k in (0, 1)])
    result = Result("sphereface", accuracy, np.zeros(2), scores, SAME, FOLD)
    return StepResult(Artefact(Path(), {}), {"accuracy": result.mean}, [], result, PAIRS)


def test_a_difference_is_the_configuration_minus_its_control() -> None:
    rng = np.random.default_rng(0)
    better, control = rng.random((2, 2, COUNT)) < np.array([0.95, 0.8])[:, None, None]
    pairs = [(verified(a), verified(b)) for a, b in zip(better, control, strict=True)]
    difference = difference_from("control", pairs)
    assert difference.control == "control" and all(value > 0.1 for value in difference.values)
    assert difference.values == pytest.approx((better.mean(1) - control.mean(1)).tolist())
    assert difference.interval is not None and 0 < difference.interval.low < difference.mean < difference.interval.high
    assert difference.p == [mcnemar(b, a)[2] for a, b in zip(better, control, strict=True)]
    reverse = difference_from("better", [(b, a) for a, b in pairs])
    assert reverse.values == pytest.approx([-value for value in difference.values])
    assert reverse.interval is not None and reverse.interval.high < 0


def test_a_difference_without_pairs_has_no_interval() -> None:
    runs = [StepResult(Artefact(Path(), {}), {"accuracy": value}) for value in (0.75, 0.5)]
    difference = difference_from("control", [(runs[0], runs[1])])
    assert difference.values == [0.25] and difference.interval is None and difference.p == []
