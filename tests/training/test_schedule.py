from __future__ import annotations

import pytest
import torch

from sfplus.training.schedule import learning_rate


def caffe_rates(base_lr: float, steps: list[int], gamma: float, count: int) -> list[float]:
    """SGDSolver::GetLearningRate, `multistep`: the state machine of caffe."""
    rates, current = [], 0
    for iteration in range(count):
        if current < len(steps) and iteration >= steps[current]:
            current += 1
        rates.append(base_lr * gamma**current)
    return rates


@pytest.mark.parametrize("steps", [[], [1], [5, 6, 9], [40]])
def test_equals_caffe_and_torch(steps: list[int]) -> None:
    ours = [learning_rate(step, 0.1, steps, 0.2) for step in range(1, 21)]
    assert ours == pytest.approx(caffe_rates(0.1, steps, 0.2, 20))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, 0.2)
    theirs = []
    for _ in range(20):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs)


def test_the_sphereface_solver() -> None:
    steps = (16000, 24000, 28000)
    rates = {step: learning_rate(step, 0.1, steps, 0.1) for step in (1, 16000, 16001, 24000, 24001, 28000)}
    assert rates == pytest.approx({1: 0.1, 16000: 0.1, 16001: 0.01, 24000: 0.01, 24001: 0.001, 28000: 0.001})
