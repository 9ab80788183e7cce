"""One line per stage: a live bar with its rate on a terminal, plain lines elsewhere (standard error both)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 30.0  # between two lines of a stage at work where there is no terminal
_SHOWN = 5  # failures that are printed


def print_failures(failures: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The first rows with `photo`, `reason` and `remedy`, a line each, and which file has all of them; to stderr."""
    for row in failures[:_SHOWN]:
        print(f"{row['photo']!r}: {row['reason']}; {row['remedy']}", file=sys.stderr)
    if len(failures) > _SHOWN:
        print(f"... and {len(failures) - _SHOWN} more, in {file}", file=sys.stderr)


class Step:
    """The line of one stage at work; its bar appears when `start` says how much there is to do."""

    def __init__(self, label: str, console: Console) -> None:
        self.label = label
        self.note = ""
        self.unit = ""
        self._console = console
        self._clock = time.monotonic()
        self.done = self._skipped = 0
        self.total: int | None = None
        self._said = self._clock
        self._progress: Progress | None = None

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """Say how much there is to do, and how much of it an interrupted run left done."""
        self.total, self.unit, self.done, self._skipped = total, unit, done, done
        self._clock = time.monotonic()
        if self._console.rich.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<18}"), BarColumn(24), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=self._console.rich, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task(self.label, total=total, completed=done, rate="", note="")
            self._progress.start()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Move on by `count` units; `note` says what was found so far."""
        self.done += count
        self.note = self.note if note is None else note
        if self._progress:
            self._progress.update(self._task, completed=self.done, rate=self.rate(), note=escape(self.note))
        elif time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            self._console.say(f"{self.label:<18} {self.done}/{self.total}  {self.rate()}  {self.note}")

    def reach(self, done: int, total: int, unit: str, note: str | None = None) -> None:
        """Be at `done`, wherever the work began, which the first call finds out: one unit before."""
        if self.total is None:
            self.start(total, unit, done - 1)
        self.advance(done - self.done, note)

    def rate(self) -> str:
        """Units per second since the start, what was skipped left out."""
        seconds = time.monotonic() - self._clock
        rate = (self.done - self._skipped) / seconds if seconds > 0 else 0.0
        return f"{rate:.0f} {self.unit}/s" if rate >= 10 else f"{rate:.1f} {self.unit}/s"

    def finish(self) -> None:
        """Take the live bar away."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def summary(self) -> str:
        """What remains on the screen: amount, rate and note."""
        parts = [f"{self.done} {self.unit}", self.rate()] if self.done > self._skipped else []
        return "  ".join([*parts, self.note] if self.note else parts)


class Console:
    """Says what happens, on standard error, so that standard output holds results only."""

    def __init__(self, quiet: bool = False) -> None:
        self.rich = rich.console.Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """One plain line."""
        self.rich.print(escape(text))

    def warn(self, text: str) -> None:
        """One line that stands out."""
        self.rich.print(f"[yellow]warning:[/] {escape(text)}")

    def say_once(self, text: str) -> None:
        """One plain line, the first time only."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def fresh(self, label: str) -> None:
        """A stage whose artefact is there already."""
        self.rich.print(f"{escape(label):<18} [green]fresh[/]")

    @contextmanager
    def step(self, label: str, resumed: bool) -> Iterator[Step]:
        """The line of a stage at work, then of a stage done."""
        if resumed:
            self.say(f"{label:<18} going on where an interrupted run stopped")
        step, clock = Step(label, self), time.monotonic()
        try:
            yield step
        finally:
            step.finish()
        self.rich.print(
            f"{escape(label):<18} [green]done[/] {time.monotonic() - clock:7.1f} s  {escape(step.summary())}"
        )
