"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from sfplus.recipes.settings.train import SolverSettings


def learning_rate(step: int, settings: SolverSettings) -> float:
    """Return the learning rate of an update.

    The schedules are Caffe's policies `multistep` (see below) and `poly`, base_lr (1 - iter / max_iter)^power, and
    `cosine`, base_lr (1 + cos(pi iter / max_iter)) / 2. During warm-up the rate is base_lr step / warmup; `poly` and
    `cosine` begin after it, while `steps` count from the start.

    Args:
        step: number of the update, from 1, so that Caffe's `iter` is step - 1: with `steps = (16000,)` update 16000
            still has the full rate and update 16001 is the first with the smaller one.
        settings: settings of the run in steps, not in epochs.
    """
    base, warmup = settings.base_lr, settings.warmup
    if settings.schedule == "multistep" or step <= warmup:
        return multistep(step, base, settings.steps, settings.lr_gamma, warmup)
    progress = (step - 1 - warmup) / (settings.max_iter - warmup)
    if settings.schedule == "cosine":
        return base * (1 + math.cos(math.pi * progress)) / 2
    return float(base * (1 - progress) ** settings.lr_power)


def multistep(step: int, base_lr: float, steps: Sequence[int], gamma: float, warmup: int = 0) -> float:
    """Return the rate of Caffe's policy `multistep`: base_lr times gamma for every entry of `steps` that has passed.

    Args:
        step: number of the update, from 1.
        base_lr: rate at the start.
        steps: numbers of the last updates with the rate before each fall.
        gamma: factor of each fall.
        warmup: number of updates in which the rate rises linearly to base_lr instead.
    """
    if step <= warmup:
        return base_lr * step / warmup
    return float(base_lr * gamma ** bisect_right(steps, step - 1))
