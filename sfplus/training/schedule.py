"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from sfplus.recipes.settings.train import SolverSettings


def learning_rate(step: int, settings: SolverSettings) -> float:
    """The rate of an update.

    Caffe's policies `multistep`, base_lr times gamma for every entry of `steps` that is behind, and `poly`,
    base_lr (1 - iter / max_iter)^power; and `cosine`, base_lr (1 + cos(pi iter / max_iter)) / 2. In a warm-up the rate
    is base_lr step / warmup; `poly` and `cosine` begin after it, `steps` count from the start.

    Args:
        step: 1-based number of the update, so that Caffe's `iter` is step - 1: with `steps = (16000,)` update 16000
            still has the full rate and update 16001 is the first with the smaller one.
        settings: without epochs.
    """
    base, warmup = settings.base_lr, settings.warmup
    if step <= warmup:
        return base * step / warmup
    if settings.schedule == "multistep":
        return multistep(step, base, settings.steps, settings.lr_gamma)
    done = (step - 1 - warmup) / (settings.max_iter - warmup)
    if settings.schedule == "cosine":
        return base * (1 + math.cos(math.pi * done)) / 2
    return float(base * (1 - done) ** settings.lr_power)


def multistep(step: int, base_lr: float, steps: Sequence[int], gamma: float) -> float:
    """Caffe's policy `multistep` alone; see `learning_rate`."""
    return float(base_lr * gamma ** bisect_right(steps, step - 1))
