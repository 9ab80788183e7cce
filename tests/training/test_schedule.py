from __future__ import annotations

import pytest
import torch

from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.schedule import learning_rate


def caffe_rates(base_lr: float, steps: list[int], gamma: float, count: int) -> list[float]:
    """Compute the policy `multistep` like Caffe's state machine, SGDSolver::GetLearningRate."""
    rates, current = [], 0
    for iteration in range(count):
        if current < len(steps) and iteration >= steps[current]:
            current += 1
        rates.append(base_lr * gamma**current)
    return rates


def our_rates(count: int, **settings: object) -> list[float]:
    solver = SolverSettings.model_validate(settings)
    return [learning_rate(step, solver) for step in range(1, count + 1)]


def torch_rates(count: int, kind: str, lr: float = 0.1, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **options)
    rates = []
    for _ in range(count):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [[], [1], [5, 6, 9], [40]])
def test_multistep_equals_caffe_and_torch(steps: list[int]) -> None:
    ours = our_rates(20, base_lr=0.1, steps=steps, lr_gamma=0.2)
    assert ours == pytest.approx(caffe_rates(0.1, steps, 0.2, 20))
    assert ours == pytest.approx(torch_rates(20, "MultiStepLR", milestones=steps, gamma=0.2))


@pytest.mark.parametrize("last", [1, 7, 20])
def test_cosine_and_poly_equal_torch(last: int) -> None:
    ours = our_rates(last, schedule="cosine", base_lr=0.1, max_iter=last)
    assert ours == pytest.approx(torch_rates(last, "CosineAnnealingLR", T_max=last), rel=1e-9)
    for power in (1.0, 2.0, 0.5):
        ours = our_rates(last, schedule="poly", base_lr=0.1, max_iter=last, lr_power=power)
        assert ours == pytest.approx(torch_rates(last, "PolynomialLR", total_iters=last, power=power), rel=1e-9)


@pytest.mark.parametrize("schedule", ["multistep", "cosine", "poly"])
def test_warmup_is_linear_and_precedes_the_schedule(schedule: str) -> None:
    ours = our_rates(12, schedule=schedule, base_lr=0.1, max_iter=12, steps=[8], warmup=4)
    assert ours[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    after = our_rates(8, schedule=schedule, base_lr=0.1, max_iter=8, steps=[4])
    assert ours[4:] == pytest.approx(after)
    assert all(rate > 0 for rate in ours)


def test_epochs_are_rounded_up_to_steps() -> None:
    """Use clcarwin's schedule on his list of 452,722 crops of CASIA-WebFace, in batches of 256."""
    solver = SolverSettings(epochs=20, steps=(10, 15, 18), batch_size=256, warmup=1).in_steps(452_722)
    assert solver.epochs is None and solver.max_iter == 35369 and solver.warmup == 1769
    assert solver.steps == (17685, 26527, 31833) and solver.in_steps(1) is solver
    assert 0 <= solver.max_iter * 256 - 20 * 452_722 < 256


def test_default_schedule_is_the_sphereface_solver() -> None:
    rates = {step: learning_rate(step, SolverSettings()) for step in (1, 16000, 16001, 24000, 24001, 28000)}
    assert rates == pytest.approx({1: 0.1, 16000: 0.1, 16001: 0.01, 24000: 0.01, 24001: 0.001, 28000: 0.001})
