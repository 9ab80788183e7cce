"""Timing for the benchmarks: contestants take turns, so that a drift of the machine affects all of them."""

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
    """Return the median seconds of each run over `rounds` rounds after a warm-up.

    The order is random in each round, because a contestant affects the memory and caches of the next.
    """
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name in order.sample(list(runs), len(runs)):
            _synchronize()
            clock = time.perf_counter()
            runs[name]()
            _synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - clock)
    return {name: median(values) for name, values in seconds.items()}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_own_process(run: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """Call a function in a new process; return the seconds, and the MB by which its peak memory rises (Linux)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, run, arguments).result()


def _measure(run: Callable[..., object], arguments: tuple[object, ...]) -> tuple[float, float]:
    before, clock = peak_memory(), time.perf_counter()
    run(*arguments)
    return time.perf_counter() - clock, peak_memory() - before


def peak_memory() -> float:
    """Return the peak memory of this process, MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
