"""Progress on standard error: a live bar with its rate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sfplus.errors import cut, one_line
from sfplus.io.loggers import get_logger
from sfplus.io.messages import is_quiet
from sfplus.io.terminal import escape_redirected_output

_PLAIN_SECONDS = 30.0  # between two lines of progress where there is no terminal
_SHOWN_FAILURES = 5

_log = get_logger(__name__)


def log_failures(failures: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Log the first failures as warnings, one line each, and the file that lists all of them.

    Args:
        failures: rows with `photo`, `reason` and `remedy`.
        file: the list of all failures.
    """
    for row in failures[:_SHOWN_FAILURES]:
        _log.warning("%r: %s; %s", row["photo"], row["reason"], row["remedy"])
    if len(failures) > _SHOWN_FAILURES:
        _log.warning("... and %d more, in %s", len(failures) - _SHOWN_FAILURES, file)


def quantity(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the right form: `1 photo`, `2 photos`; `2 people` needs the `plural`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def byte_count(number: int) -> str:
    """Return a number of bytes in the unit that shows it best: `850 bytes`, `1.2 kB`, `3.4 MB`, `5.6 GB`."""
    units = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    size, unit = next(((size, unit) for size, unit in units if number >= size), (0, ""))
    return f"{number / size:.1f} {unit}" if size else quantity(number, "byte")


def first_names(names: Sequence[str]) -> str:
    """Return up to three names, of 80 characters at most, and how many more there are: `a, b, c and 2 more`."""
    return ", ".join(name[:80] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def plain(text: str) -> str:
    """Return text as one line that rich prints as it is, cut if it is very long."""
    return escape(cut(one_line(text)))


class ProgressLine:
    """The progress of one running stage; its bar appears when `start` gives the amount of work.

    Args:
        label: the name of the stage.
        console: the console to print to.
    """

    def __init__(self, label: str, console: Console) -> None:
        self.label = label
        self.note = ""
        self.unit = ""
        self._console = console
        self._started = time.monotonic()
        self.done = self._skipped = 0
        self.total: int | None = None
        self._printed = self._started
        self._progress: Progress | None = None

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """Set the amount of work and start the clock.

        Args:
            total: the number of units.
            unit: its name in the plural, such as `photos`, which differs from the singular by an s.
            done: the units that an interrupted run has finished; they do not count for the rate.
        """
        self.total, self.unit, self.done, self._skipped = total, unit, done, done
        self._started = time.monotonic()
        if self._console.rich.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<18}", markup=False), BarColumn(24), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=self._console.rich, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task(one_line(self.label), total=total, completed=done, rate="", note="")
            self._progress.start()
            escape_redirected_output()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Add `count` finished units; a `note` replaces the text at the end of the line."""
        self.done += count
        self.note = self.note if note is None else note
        if self._progress:
            self._progress.update(self._task, completed=self.done, rate=self.rate(), note=plain(self.note))
        elif time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._printed = time.monotonic()
            line = f"{self.label:<18} {self.done}/{self.total}  {self.rate()}  {self.note}"
            self._console.rich.print(plain(line))

    def update(self, done: int, total: int, unit: str, note: str | None = None) -> None:
        """Set the number of finished units; the first call starts the line, one unit before `done`."""
        if self.total is None:
            self.start(total, unit, done - 1)
        self.advance(done - self.done, note)

    def rate(self) -> str:
        """Return the rate since the start, such as `85 photos/s`, without skipped units."""
        seconds = time.monotonic() - self._started
        rate = (self.done - self._skipped) / seconds if seconds > 0 else 0.0
        return f"{rate:.0f} {self.unit}/s" if rate >= 10 else f"{rate:.1f} {self.unit}/s"

    def finish(self) -> None:
        """Remove the live bar."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def summary(self) -> str:
        """Return amount, rate and note for the final line."""
        columns = [quantity(self.done, self.unit.removesuffix("s")), self.rate()] if self.done > self._skipped else []
        return "  ".join([*columns, self.note] if self.note else columns)


@cache
def standard_error() -> rich.console.Console:
    """Return the console of standard error, which bars and messages share: a line is printed above a live bar."""
    return rich.console.Console(stderr=True, highlight=False, soft_wrap=True)


class Console:
    """Prints the progress of a run to standard error; standard output holds results only.

    Args:
        quiet: print nothing, as with `--quiet`.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.rich = rich.console.Console(stderr=True, quiet=True) if quiet or is_quiet() else standard_error()

    def print_fresh(self, label: str) -> None:
        """Print the line of a stage whose artefact already exists."""
        self.rich.print(f"{plain(label):<18} [green]fresh[/]")

    @contextmanager
    def progress(self, label: str, resumed: bool) -> Iterator[ProgressLine]:
        """Yield the progress line of a stage, and print its summary when the block succeeds.

        Args:
            label: the name of the stage.
            resumed: whether it continues an interrupted run, which is printed first.
        """
        if resumed:
            self.rich.print(plain(f"{label:<18} continues an interrupted run"))
        line, started = ProgressLine(label, self), time.monotonic()
        try:
            yield line
        finally:
            line.finish()
        self.rich.print(
            f"{plain(label):<18} [green]done[/] {time.monotonic() - started:7.1f} s  {plain(line.summary())}"
        )
