"""Work that several processes share part by part, on one machine or on several with a common disk.

A part is finished once the file with its rows exists. The process that works on a part holds its lock, which is
released when that process ends, however it ends: another process then takes the part over. Processes have no numbers,
so they may come and go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import filelock

from sfplus.artifacts.stage import Job
from sfplus.io.locks import file_lock
from sfplus.io.tables import read_json_lines, write_json_lines


class SharedWork:
    """The work of a stage in parts; leaving the `with` block releases the parts that were not finished.

    Args:
        job: The job of the process that builds the artefact, or of one that helps it.
        items: The items to work on; the same in all processes.
        part_size: The number of items in a part.
        unit: The name of the items on the progress line.
    """

    def __init__(self, job: Job[Any], items: Sequence[Any], part_size: int, unit: str) -> None:
        self._job, self._items, self._size = job, items, part_size
        self._count = -(-len(items) // part_size)
        self._locks: dict[int, filelock.BaseFileLock] = {}
        job.parts.mkdir(parents=True, exist_ok=True)
        self._counted = {part for part in range(self._count) if self._is_finished(part)}
        job.context.progress.start(len(items), unit, done=sum(len(self._slice(part)) for part in self._counted))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self._locks.values():
            lock.release()

    def rounds(self) -> Iterator[Iterator[tuple[int, Any]]]:
        """Yield rounds of items; each round has the items of all parts that no other process works on.

        Items come with the number of their part. A round never waits, so that items can be prefetched; between rounds
        this waits until another process finishes or releases a part. After the last round all parts are finished.
        """
        while True:
            yield self._claim()
            part = next((part for part in range(self._count) if not self._is_finished(part)), None)
            if part is None:
                return
            with self._ignore_missing_when_over(), self._lock(part):
                pass

    def _claim(self) -> Iterator[tuple[int, Any]]:
        for part in range(self._count):
            if self._acquire(part):
                for item in self._slice(part):
                    yield part, item
            elif self._is_finished(part):
                self._advance(part)

    def _acquire(self, part: int) -> bool:
        if self._is_finished(part):
            return False
        lock = self._lock(part)
        with self._ignore_missing_when_over(), contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=0)
        if not lock.is_locked:
            return False
        if self._is_finished(part):  # by the process that has just released the lock
            lock.release()
            return False
        self._locks[part] = lock
        return True

    def part_length(self, part: int) -> int:
        """Return the number of items in a part."""
        return len(self._slice(part))

    def finish(self, part: int, rows: Sequence[Mapping[str, Any]], note: str | None = None) -> None:
        """Write the rows of a part in one step and release it."""
        write_json_lines(self._file(part), rows)
        self._locks.pop(part).release()
        self._advance(part, note)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all parts, in order."""
        return [row for part in range(self._count) for row in read_json_lines(self._file(part), dict[str, Any])]

    @contextlib.contextmanager
    def _ignore_missing_when_over(self) -> Iterator[None]:
        """Ignore missing files once the artefact is in place, since the parts are deleted then."""
        try:
            yield
        except FileNotFoundError:
            if not self._job.is_over:
                raise

    def _slice(self, part: int) -> Sequence[Any]:
        return self._items[part * self._size : (part + 1) * self._size]

    def _is_finished(self, part: int) -> bool:
        return self._file(part).exists() or self._job.is_over

    def _advance(self, part: int, note: str | None = None) -> None:
        if part not in self._counted:
            self._counted.add(part)
            self._job.context.progress.advance(len(self._slice(part)), note)

    def _file(self, part: int, suffix: str = "jsonl") -> Path:
        return self._job.parts / f"{part:06}.{suffix}"

    def _lock(self, part: int) -> filelock.BaseFileLock:
        return file_lock(self._file(part, "lock"))
