"""A detector and an embedder in somebody else's program: its settings have no effect and are left as they were."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_cases import mostly_slow
from torch.utils.data import DataLoader, Dataset

from sfplus import Detector, Embedder


@pytest.fixture(scope="module")
def photos(drawn: Path) -> list[Path]:
    return sorted(drawn.glob("*/*.jpg"))[:2]


pytestmark = pytest.mark.usefixtures("three_threads")


def arrays(model: Path, photos: list[Path], detector: Detector | None, embedder: Embedder | None) -> list[np.ndarray]:
    """Return boxes and features, of new objects where there is none."""
    detector, embedder = detector or Detector(60, device="cpu"), embedder or Embedder(model, "cpu")
    return [*(faces.boxes for faces in detector.detect(photos)), embedder(photos)]


def state() -> dict[str, Any]:
    """Return the settings of torch that a program may notice, in this thread and in a new one."""

    def read() -> dict[str, Any]:
        return {
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "device": torch.get_default_device(),
            "gradients": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
            "products": torch.get_float32_matmul_precision(),
        }

    with ThreadPoolExecutor(1) as pool:
        return {"here": read(), "later": pool.submit(read).result()}


@contextlib.contextmanager
def setting(change: Callable[[Any], None], value: Any, default: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(default)


@contextlib.contextmanager
def another_device_and_one_thread() -> Iterator[None]:
    """With one thread, detection runs in the calling thread, which alone has the default device."""
    with setting(torch.set_num_threads, 1, 3), torch.device("meta"):
        yield


PROGRAMS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "float64 by default": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "another device by default": lambda: torch.device("meta"),
    "another device and one thread": another_device_and_one_thread,
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "products in bfloat16": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "inference mode": lambda: torch.inference_mode(),
    "one thread": lambda: setting(torch.set_num_threads, 1, 3),
    "two threads": lambda: setting(torch.set_num_threads, 2, 3),
}
FAST_PROGRAMS = [
    ("float64 by default", "before"), ("another device and one thread", "inside"), ("autocast", "inside"),
    ("two threads", "before"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "created"), mostly_slow(itertools.product(PROGRAMS, ("before", "inside")), FAST_PROGRAMS)
)
def test_settings_of_the_program_have_no_effect_and_are_left_alone(
    untrained_model: Path, photos: list[Path], program: str, created: str
) -> None:
    detector, embedder = Detector(60, device="cpu"), Embedder(untrained_model, "cpu")
    expected = arrays(untrained_model, photos, detector, embedder)
    with PROGRAMS[program]():
        before = state()
        objects = (detector, embedder) if created == "before" else (None, None)
        results = arrays(untrained_model, photos, *objects)
        assert state() == before
    for result, array in zip(results, expected, strict=True):
        if "thread" in program and array is expected[-1]:  # torch adds in another order
            np.testing.assert_allclose(result, array, atol=1e-5 * abs(array).max())
        else:
            np.testing.assert_array_equal(result, array)


@pytest.mark.slow
def test_threads_share_a_detector_and_an_embedder(untrained_model: Path, photos: list[Path]) -> None:
    detector, embedder = Detector(60, device="cpu"), Embedder(untrained_model, "cpu")
    expected = arrays(untrained_model, photos, detector, embedder)
    before = state()
    with ThreadPoolExecutor(6) as users:
        calls = [users.submit(arrays, untrained_model, photos, detector, embedder) for _ in range(12)]
        for call in calls:
            assert all(map(np.array_equal, call.result(timeout=120), expected))
    assert state() == before


def test_a_detector_keeps_its_threads_and_takes_them_along(photos: list[Path]) -> None:
    before = set(threading.enumerate())
    detector, started = Detector(60, device="cpu"), []
    for _ in range(3):
        detector.detect(photos[0])
        started.append(set(threading.enumerate()) - before)
    assert started[0] == started[1] == started[2] and len(started[0]) == 4
    del detector
    for thread in started[0]:
        thread.join(5)
        assert not thread.is_alive()


class Worked(Dataset[Any]):
    """What a worker of a data loader computes, and its numbers of threads before and afterwards."""

    def __init__(self, model: Path, photos: list[Path], detector: Detector, embedder: Embedder) -> None:
        self.arguments = model, photos, detector, embedder

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[int, int, list[np.ndarray]]:
        before = torch.get_num_threads()
        result = arrays(*self.arguments)
        return before, torch.get_num_threads(), result


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        pytest.param("fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_of_a_data_loader_can_use_what_the_program_has_used(
    untrained_model: Path, photos: list[Path], start: str
) -> None:
    detector, embedder = Detector(60, device="cpu"), Embedder(untrained_model, "cpu")
    torch.set_num_threads(1)
    expected = arrays(untrained_model, photos, detector, embedder)
    torch.set_num_threads(3)
    detector.detect(photos)  # its threads exist, but not in forked processes
    loader = DataLoader(
        Worked(untrained_model, photos, detector, embedder),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
        timeout=120,
    )
    for before, after, result in loader:
        assert before == after == 1
        assert all(map(np.array_equal, result, expected))
    assert torch.get_num_threads() == 3
