"""SIGINT and SIGTERM during training: the step in progress is finished first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class DeferredSignals:
    """A context that records the first SIGINT or SIGTERM; a second one acts at once.

    It has an effect in the main thread only; Python delivers no signals to other threads.

    Attributes:
        number: number of the recorded signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._active = threading.current_thread() is threading.main_thread()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._active:
            self._previous = {s: signal.signal(s, self._record) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def raise_signal(self, number: int) -> None:
        """Restore the previous handlers and raise a signal, which then takes its usual effect."""
        self._restore()
        signal.raise_signal(number)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
