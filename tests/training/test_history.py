from __future__ import annotations

from pathlib import Path

import pytest

from sfplus.training.history import History, read_rows


def write(folder: Path, start: int, steps: range) -> None:
    history = History(folder, start)
    for step in steps:
        history.add({"step": step, "loss": 1 / step, "energy": None}, {"step": step, "crops_per_second": 3.5})
    history.close()


def test_rows_after_the_checkpoint_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 10))
    complete = (tmp_path / "history.jsonl").read_bytes()
    write(tmp_path, 4, range(5, 10))
    assert (tmp_path / "history.jsonl").read_bytes() == complete
    assert [row["step"] for row in read_rows(tmp_path / "timings.jsonl")] == list(range(1, 10))
    assert read_rows(tmp_path / "history.jsonl")[2] == {"step": 3, "loss": 1 / 3, "energy": None}


@pytest.mark.parametrize("tail", ['{"step": 4, "lo', "\0\0\0\0", "[1]\n", '{"loss": 1}\n', "\udcff"])
def test_incomplete_row_is_dropped(tmp_path: Path, tail: str) -> None:
    write(tmp_path, 0, range(1, 4))
    file = tmp_path / "history.jsonl"
    complete = file.read_bytes()
    file.write_bytes(complete + tail.encode("utf-8", "surrogateescape"))
    assert [row["step"] for row in read_rows(file)] == [1, 2, 3]
    History(tmp_path, 3).close()
    assert file.read_bytes() == complete


def test_curves_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, range(1, 6))
    write(tmp_path, 3, range(4, 6))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["crops_per_second", "loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, pytest.approx(1 / s)) for s in range(1, 6)]


def test_missing_history_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "history.jsonl") == []
