"""Work that several processes share part by part, on one machine or on several with a common disk.

A part is finished once there is a record of its rows and files that fits its items. The process that works on a part
holds its lock, which is released when that process ends, however it ends: another process then takes the part over.
Processes have no numbers, so they may come and go.

Parts are not flushed to the disk. After a power cut a record or a file of a part may be empty, cut or full of zeros;
the next process that builds the artefact compares them with their digests, and computes such a part again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import filelock
from typing_extensions import TypedDict

from sfplus.artifacts.file_record import digest_all
from sfplus.artifacts.stage import Job
from sfplus.errors import ArtefactError
from sfplus.io.files import digest_json, write_atomically
from sfplus.io.json_files import parse_json, read_bytes
from sfplus.io.locks import file_lock

_REMEDY = "run again"


class _Part(TypedDict):  # the second line of a record; the first one is the digest of this line
    items: str  # digest of their names
    rows: list[dict[str, Any]]
    files: dict[str, str]  # the SHA-256 of each by its name


class SharedWork:
    """The work of a stage in parts; leaving the `with` block releases the parts that were not finished.

    Args:
        job: The job of the process that builds the artefact, or of one that helps it.
        items: The items to work on; the same in all processes.
        part_size: The number of items in a part.
        unit: The name of the items on the progress line.
        name: Returns the name of an item, ready for JSON; by default the item itself.
    """

    def __init__(
        self,
        job: Job[Any],
        items: Sequence[Any],
        part_size: int,
        unit: str,
        name: Callable[[Any], object] = lambda item: item,
    ) -> None:
        self._job, self._items, self._size, self._name = job, items, part_size, name
        self._count = -(-len(items) // part_size)
        self._locks: dict[int, filelock.BaseFileLock] = {}
        self._finished: set[int] = set()
        job.parts.mkdir(parents=True, exist_ok=True)
        if not job.helps:
            self._delete_damaged()
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

    def finish(
        self,
        part: int,
        rows: Sequence[Mapping[str, Any]],
        note: str | None = None,
        files: Iterable[str] = (),
        known: Mapping[str, str] | None = None,
    ) -> None:
        """Write the record of a part in one step and release it.

        Args:
            part: The number of the part.
            rows: Its rows.
            note: The text at the end of the progress line.
            files: Files that belong to it, as POSIX paths relative to the folder of parts.
            known: The SHA-256 of files that need not be read.
        """
        digests = digest_all(self._job.parts, files, known)
        content = json.dumps({"items": self._items_digest(part), "rows": list(rows), "files": digests}).encode()
        write_atomically(self._file(part), _digest(content) + b"\n" + content, sync=False)
        self._finished.add(part)
        self._locks.pop(part).release()
        self._advance(part, note)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all parts, in order.

        Raises:
            ArtefactError: If a part was damaged since it was finished.
        """
        return [row for part in range(self._count) for row in self._read(part)["rows"]]

    def files(self) -> set[str]:
        """Return the files of all parts."""
        return {name for part in range(self._count) for name in self._read(part)["files"]}

    def _delete_damaged(self) -> None:
        """Delete the records of parts of which a file is missing or was changed."""
        for part in filter(self._is_finished, range(self._count)):
            with contextlib.suppress(ArtefactError):
                files = self._read(part)["files"]
                if digest_all(self._job.parts, files) == files:
                    continue
            self._file(part).unlink(missing_ok=True)
            self._finished.discard(part)

    def _read(self, part: int) -> _Part:
        """Return the record of a part.

        Raises:
            ArtefactError: If there is none, or it is damaged.
        """
        path = self._file(part)
        digest, _, content = read_bytes(path, remedy=_REMEDY).partition(b"\n")
        if digest == _digest(content):
            record = parse_json(content, _Part, where=path, remedy=_REMEDY)
            if record["items"] == self._items_digest(part):
                return record
        raise ArtefactError("is damaged (it was changed)", where=path, remedy=_REMEDY)

    def _items_digest(self, part: int) -> str:
        return digest_json([self._name(item) for item in self._slice(part)])

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
        if part not in self._finished and self._file(part).exists():
            with contextlib.suppress(ArtefactError):
                self._read(part)
                self._finished.add(part)
        return part in self._finished or self._job.is_over

    def _advance(self, part: int, note: str | None = None) -> None:
        if part not in self._counted:
            self._counted.add(part)
            self._job.context.progress.advance(len(self._slice(part)), note)

    def _file(self, part: int, suffix: str = "jsonl") -> Path:
        return self._job.parts / f"{part:06}.{suffix}"

    def _lock(self, part: int) -> filelock.BaseFileLock:
        return file_lock(self._file(part, "lock"))


def _digest(content: bytes) -> bytes:
    return b'"%s"' % hashlib.sha256(content).hexdigest().encode()
