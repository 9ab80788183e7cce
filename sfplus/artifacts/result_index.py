"""Results of earlier runs by the content of a photo or crop, so that a rerun works only on what is new."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sfplus.errors import warn_user

_CHUNK = 500  # keys in a query; SQLite accepts 999 in old versions
_TIMEOUT = 60.0  # seconds to wait for another process that writes


class ResultIndex:
    """A file that maps digests to results; several processes may read and write it.

    It only saves time: a file that is missing, damaged or on a read-only disk counts as empty. Each result is stored
    with a digest, so that none is returned that damage has changed.

    Args:
        path: The file; it is created, with its folder, by the first `put`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the results of those keys that have one."""
        results: dict[str, str] = {}
        if not self._path.is_file():
            return results
        with contextlib.suppress(sqlite3.Error), self._open() as database:
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                query = f"SELECT key, result, digest FROM checked WHERE key IN ({','.join('?' * len(chunk))})"
                rows = database.execute(query, chunk)
                results |= {key: result for key, result, digest in rows if digest == _digest(key, result)}
        return results

    def put(self, results: Iterable[tuple[str, str]]) -> None:
        """Store results by key, all of them or none; a key that is known gets the new result."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database, database:
                # not the table `results` of earlier versions, which has no digests
                columns = "(key TEXT PRIMARY KEY, result TEXT, digest TEXT)"
                database.execute(f"CREATE TABLE IF NOT EXISTS checked {columns} WITHOUT ROWID")
                rows = ((key, result, _digest(key, result)) for key, result in results)
                database.executemany("INSERT OR REPLACE INTO checked VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=_TIMEOUT)) as database:
            try:
                database.execute("PRAGMA synchronous = OFF")  # what a power cut damages is computed again
                yield database
            except sqlite3.DatabaseError as error:
                if type(error) is sqlite3.DatabaseError:  # the file is damaged: it is started anew by the next `put`
                    warn_user(f"{self._path}: is damaged ({error}); what it remembers is computed again")
                    for suffix in ("-journal", "-wal", "-shm", ""):  # a journal would be applied to the new file
                        with contextlib.suppress(OSError):  # a read-only disk; on Windows, a file in use
                            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
                raise


def _digest(key: object, result: object) -> str:
    return hashlib.sha256(f"{key} {result}".encode(errors="surrogateescape")).hexdigest()[:16]
