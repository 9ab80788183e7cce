"""Work that several processes share part by part, on one machine or on several with a common disk.

A part is done once the file of its rows is there. Who works on a part holds its lock, which goes when that process
ends, however it ends: another one takes the part over. No process has a number, so they may come and go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import filelock

from sfplus.artifacts.cache import Job
from sfplus.io.tables import read_json_lines, write_json_lines


class Parts:
    """The parts of a stage's work; leaving the `with` block lets those go that were not finished.

    Args:
        job: of the process that builds the artefact, or of one that helps it.
        items: what there is to do; the same in all processes.
        size: items of a part.
        unit: what the items are called on the progress line.
    """

    def __init__(self, job: Job, items: Sequence[Any], size: int, unit: str) -> None:
        self._job, self._items, self._size = job, items, size
        self._count = -(-len(items) // size)
        self._held: dict[int, filelock.BaseFileLock] = {}
        job.parts.mkdir(parents=True, exist_ok=True)
        self._seen = {part for part in range(self._count) if self._is_done(part)}
        job.run.bar.start(len(items), unit, done=sum(len(self._slice(part)) for part in self._seen))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self._held.values():
            lock.release()

    def rounds(self) -> Iterator[Iterator[tuple[int, Any]]]:
        """In each round, the items of the parts that nobody else works on, each with the number of its part.

        A round never waits, so that items can be taken ahead; between rounds it waits until another process finishes
        or drops a part. Nothing is left after the last one.
        """
        while True:
            yield self._claim()
            part = next((part for part in range(self._count) if not self._is_done(part)), None)
            if part is None:
                return
            with self._gone_is_over(), self._lock(part):
                pass

    def _claim(self) -> Iterator[tuple[int, Any]]:
        for part in range(self._count):
            if self._take(part):
                for item in self._slice(part):
                    yield part, item
            elif self._is_done(part):
                self._advance(part)

    def _take(self, part: int) -> bool:
        if self._is_done(part):
            return False
        lock = self._lock(part)
        with self._gone_is_over(), contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=0)
        if not lock.is_locked:
            return False
        if self._is_done(part):  # just before the lock was free
            lock.release()
            return False
        self._held[part] = lock
        return True

    def finish(self, part: int, rows: Sequence[Mapping[str, Any]], note: str | None = None) -> None:
        """Put down the rows of a part, in one step."""
        write_json_lines(self._file(part), rows)
        self._held.pop(part).release()
        self._advance(part, note)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all parts, in order."""
        return [row for part in range(self._count) for row in read_json_lines(self._file(part))]

    @contextlib.contextmanager
    def _gone_is_over(self) -> Iterator[None]:
        """The parts go once the artefact is in place: that they are missing then is no error."""
        try:
            yield
        except FileNotFoundError:
            if not self._job.is_over:
                raise

    def _slice(self, part: int) -> Sequence[Any]:
        return self._items[part * self._size : (part + 1) * self._size]

    def _is_done(self, part: int) -> bool:
        return self._file(part).exists() or self._job.is_over

    def _advance(self, part: int, note: str | None = None) -> None:
        if part not in self._seen:
            self._seen.add(part)
            self._job.run.bar.advance(len(self._slice(part)), note)

    def _file(self, part: int, suffix: str = "jsonl") -> Path:
        return self._job.parts / f"{part:06}.{suffix}"

    def _lock(self, part: int) -> filelock.BaseFileLock:
        return filelock.FileLock(self._file(part, "lock"))
