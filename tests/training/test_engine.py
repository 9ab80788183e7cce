"""The engine on a small task with two optimizers, dropout and no labels."""

from __future__ import annotations

import json
import resource
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfplus.device import Device, choose_device
from sfplus.errors import TrainingError
from sfplus.recipes.settings.engine import LoopSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import Row, Task, train

SETTINGS = LoopSettings(max_iter=8, batch_size=6, log_every=2, checkpoint_every=3)


class Duel(Task):
    """A generator of numbers against a critic with dropout."""

    digest = "duel"
    unit = "numbers"
    averaged = ("critic", "generator")

    def __init__(self, processes: ProcessGroup, rate: float = 0.05) -> None:
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
        self.modules = nn.ModuleDict({"generator": nn.Linear(2, 1), "critic": critic})
        self.optimizers: dict[str, Any] = {
            "generator": torch.optim.Adam(self.modules["generator"].parameters(), lr=rate, betas=(0.5, 0.9)),
            "critic": torch.optim.SGD(critic.parameters(), lr=rate, momentum=0.5),
        }
        self.processes = processes
        self.steps: list[int] = []

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        rng = np.random.default_rng(step)
        return tuple(torch.from_numpy(rng.normal(size=(6, n)).astype(np.float32))[share] for n in (1, 2))

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        self.steps.append(step)
        real, noise = batch
        losses = {}
        for name, reference in (("critic", real), ("generator", torch.zeros_like(real))):
            generated = self.modules["critic"](self.modules["generator"](noise))
            losses[name] = (generated - self.modules["critic"](reference)).mean() * (1 if name == "critic" else -1)
            self.optimizers[name].zero_grad()
            losses[name].backward()
            self.optimizers[name].step()
        return {**losses, "rate": 0.05, "nothing": None} if measure else None

    def describe(self, step: int) -> str:
        return "rate 0.05"

    def logged(self, row: Row, earlier: Sequence[Row]) -> None:
        row["earlier"] = len(earlier)


def duel(folder: Path, rate: float = 0.05, stop: int = 0, **changes: int) -> tuple[Duel, dict[str, float]]:
    def on_step(step: int, row: Row) -> None:
        if step == stop:
            raise ZeroDivisionError

    task = Duel(processes := ProcessGroup(choose_device("cpu")), rate)
    return task, train(task, SETTINGS.model_copy(update=changes), folder, processes, on_step)


def test_rows_and_summary(tmp_path: Path) -> None:
    _, summary = duel(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [["step", "critic", "generator", "rate", "nothing", "earlier"]] * 4
    assert [row["earlier"] for row in rows] == [0, 1, 2, 3] and rows[0]["nothing"] is None
    assert summary["critic"] == rows[-1]["critic"] and summary["generator"] == rows[-1]["generator"]
    assert '"numbers_per_second"' in (tmp_path / "timings.jsonl").read_text()


@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_interrupted_run_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    """Dropout, batch normalisation, Adam's counters and two velocities are all restored."""
    whole, _ = duel(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        duel(tmp_path / "parts", stop=stop)
    torch.manual_seed(99)  # the state of the caller's generator must not matter
    parts, _ = duel(tmp_path / "parts")
    assert parts.steps == list(range(stop // 3 * 3 + 1, 9))
    restored = parts.modules.state_dict()
    assert all(torch.equal(tensor, restored[name]) for name, tensor in whole.modules.state_dict().items())
    assert len({(tmp_path / name / "history.jsonl").read_bytes() for name in ("whole", "parts")}) == 1


class Late(ProcessGroup):
    """A single process that answers like several, with the numbers of the previous call; one call raises a signal."""

    def __init__(self, signalled: int) -> None:
        super().__init__(choose_device("cpu"))
        self.signalled, self.numbers = signalled, [0]

    def largest_so_far(self, number: int) -> int:
        self.numbers.append(number)
        if len(self.numbers) == self.signalled + 1:
            signal.raise_signal(signal.SIGINT)
        return self.numbers[-2]

    def largest(self, number: int) -> int:
        return max(self.largest_so_far(number), number)


@pytest.mark.parametrize("step", range(1, 9))
def test_no_signal_is_lost_between_processes(step: int, tmp_path: Path) -> None:
    task = Duel(late := Late(step))
    with pytest.raises(KeyboardInterrupt):
        train(task, SETTINGS, tmp_path, late)
    assert task.steps[-1] == min(step + 2, 8)
    assert (tmp_path / f"checkpoint-{task.steps[-1]:06}").is_dir()


def test_random_numbers_depend_on_seed_and_step(tmp_path: Path) -> None:
    drawn: list[float] = []

    class Drawing(Duel):
        def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
            drawn.append(float(torch.rand(1)))
            return None

    for seed in (0, 0, 1):
        task = Drawing(processes := ProcessGroup(choose_device("cpu")))
        train(task, SETTINGS.model_copy(update={"seed": seed}), tmp_path / str(len(drawn)), processes)
    assert drawn[:8] == drawn[8:16] and len(set(drawn[8:])) == 16


def test_non_finite_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the (critic|generator) is (nan|inf|-inf) at step 2 \(rate 0.05\); use a"):
        duel(tmp_path, rate=1e30)


def test_number_of_kept_checkpoints(tmp_path: Path) -> None:
    duel(tmp_path, checkpoint_every=2, keep=3)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-00000{n}" for n in (4, 6, 8)]


def test_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files simulates a full disk: the operating system refuses to write."""
    whole, _ = duel(tmp_path / "whole")

    def grow(step: int, row: Row) -> None:
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    task = Duel(processes := ProcessGroup(choose_device("cpu")))
    monkeypatch.setattr("sfplus.training.history.History.add", lambda *_: None)  # keep its files below the limit
    try:
        with pytest.raises(
            TrainingError, match=r"parts: cannot be written \(File too large\); free some space .*, and start"
        ):
            train(task, SETTINGS, tmp_path / "parts", processes, grow)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert task.steps[-1] == 6
    again, _ = duel(tmp_path / "parts")
    assert again.steps == [4, 5, 6, 7, 8]
    restored = again.modules.state_dict()
    assert all(torch.equal(tensor, restored[name]) for name, tensor in whole.modules.state_dict().items())


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file: cannot be written \(File exists\)"):
        duel(tmp_path / "file")


def fail(error: Exception) -> type[Duel]:
    """Return a task whose second update raises an error."""

    class Failing(Duel):
        def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
            if step == 2:
                raise error
            return super().update(step, batch, measure)

    return Failing


class Accumulating(LoopSettings):
    """Settings of a training that can divide its batches."""

    accumulate: int = 1


@pytest.mark.parametrize(
    ("settings", "precision", "remedy"),
    [
        (LoopSettings, "auto", "use a smaller batch_size or precision=bf16"),
        (LoopSettings, "float32", "use a smaller batch_size or precision=bf16"),
        (LoopSettings, "bf16", "use a smaller batch_size"),
        (LoopSettings, "fp16", "use a smaller batch_size"),
        (Accumulating, "auto", "use a smaller batch_size, a larger accumulate or precision=bf16"),
        (Accumulating, "bf16", "use a smaller batch_size or a larger accumulate"),
    ],
)
def test_a_lack_of_memory_names_the_settings_that_help(
    settings: type[LoopSettings], precision: str, remedy: str, tmp_path: Path
) -> None:
    """It is not the end of another process."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.\nMore.")
    task = fail(error)(processes := ProcessGroup(choose_device("cpu")))
    with pytest.raises(TrainingError) as caught:
        train(task, settings.model_validate({**SETTINGS.model_dump(), "precision": precision}), tmp_path, processes)
    assert str(caught.value) == (
        "not enough memory (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.); " + remedy
    )
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x")])
def test_errors_of_a_task_pass_unchanged(error: Exception, tmp_path: Path) -> None:
    task = fail(error)(processes := ProcessGroup(choose_device("cpu")))
    with pytest.raises(type(error)) as caught:
        train(task, SETTINGS, tmp_path, processes)
    assert caught.value is error


def test_steps_have_no_tf32_and_settings_are_restored(tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.get_float32_matmul_precision()

    class Watching(Duel):
        def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
            seen.append(state())
            if step == 3:
                raise ZeroDivisionError
            return super().update(step, batch, measure)

    seen: list[object] = []
    task = Watching(processes := ProcessGroup(choose_device("cpu")))
    torch.set_float32_matmul_precision("high")
    try:
        before = state()
        with pytest.raises(ZeroDivisionError):
            train(task, SETTINGS, tmp_path, processes)
        assert seen == [(False, True, False, "highest")] * 3
        assert state() == before and before[0] and before[3] == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_batches_are_pinned_in_the_thread_that_prepares_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def pin(device: Device, tensor: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        return tensor

    monkeypatch.setattr(Device, "pin", pin)
    duel(tmp_path)
    assert len(threads) == 2 * SETTINGS.max_iter and threading.current_thread() not in threads
