"""The learning rate as a function of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


def learning_rate(step: int, base_lr: float, steps: Sequence[int], gamma: float) -> float:
    """Caffe's `multistep` policy: base_lr times gamma for every entry of `steps` that is behind.

    Args:
        step: 1-based number of the update, so that Caffe's `iter` is step - 1: with `steps = (16000,)` update 16000
            still has the full rate and update 16001 is the first with the smaller one.
        base_lr: the rate of step 1.
        steps: rising numbers of completed updates.
        gamma: the factor.
    """
    return float(base_lr * gamma ** bisect_right(steps, step - 1))
