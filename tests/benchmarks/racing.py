"""Shared by the benchmarks: contestants take turns, so that a drift of the machine meets all of them."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch


def race(runs: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each run over `rounds` turns after one that warms up.

    Each turn has a random order, because a contestant leaves its memory and caches to the next.
    """
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name in order.sample(list(runs), len(runs)):
            _wait()
            clock = time.perf_counter()
            runs[name]()
            _wait()
            if turn:
                seconds[name].append(time.perf_counter() - clock)
    return {name: median(values) for name, values in seconds.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alone(run: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """Seconds of one call in a process of its own, and the MB by which it raises the peak of its memory (Linux)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, run, arguments).result()


def _alone(run: Callable[..., object], arguments: tuple[object, ...]) -> tuple[float, float]:
    before, clock = _peak(), time.perf_counter()
    run(*arguments)
    return time.perf_counter() - clock, _peak() - before


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
