"""SIGINT and SIGTERM during a training run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from slow_cases import slow
from tiny import Train, Uninterrupted, is_equal, stop_at


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
def test_signal_ends_the_step_saves_and_takes_effect(
    number: signal.Signals, uninterrupted: Uninterrupted, train: Train, tmp_path: Path
) -> None:
    class Ended(Exception):
        pass

    def handler(*_: object) -> None:
        raise Ended

    before = signal.signal(number, handler)
    try:
        with pytest.raises(Ended):
            train(tmp_path, lambda step, row: os.kill(os.getpid(), number) if step == 5 else None)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000005"]
    assert is_equal(train(tmp_path)[0], uninterrupted[0])


def test_second_signal_acts_at_once(train: Train, tmp_path: Path) -> None:
    def twice(step: int, row: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second one was swallowed")

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, twice)


def test_keyboard_interrupt_in_the_callback_saves(train: Train, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_at(3, KeyboardInterrupt()))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000003"]
