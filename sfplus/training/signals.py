"""SIGINT and SIGTERM during training: the step in progress ends first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Signals:
    """Notes the first SIGINT or SIGTERM, so that the step in progress can end; a second one acts at once.

    Works in the main thread; elsewhere Python delivers no signals.

    Attributes:
        number: of the signal that came; 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._active = threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._active:
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def pass_on(self, number: int) -> None:
        """Let a signal do what it would have done."""
        self._restore()
        signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
