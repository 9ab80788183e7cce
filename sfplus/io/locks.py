"""Locks between processes, which also work on network disks without a lock service."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import filelock

from sfplus.errors import warn_user

_NO_SERVICE = frozenset({errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
_services: dict[int, bool] = {}  # whether the disk with this number has locks


def file_lock(path: Path, timeout: float = -1) -> filelock.BaseFileLock:
    """Return a lock, not yet acquired, that one process at a time holds and that ends with its process.

    On a disk without a lock service a marker `{name}.held{suffix}` stands for the lock. That of a dead process is
    removed, unless the process ran on another computer: then a warning names the marker to delete.

    Args:
        path: the file of the lock, which stays when the lock is released.
        timeout: how long `acquire` waits, in seconds, before it raises `filelock.Timeout`; negative: for ever.
    """
    if _has_lock_service(path.parent):
        return filelock.FileLock(path, timeout)
    return _MarkerLock(_marker(path), timeout)


def is_held(path: Path) -> bool:
    """Return True if a process holds the lock of this path (see `file_lock`) now."""
    if not (path.exists() or _marker(path).exists()):
        return False
    try:
        with file_lock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True


class _MarkerLock(filelock.SoftFileLock):
    """A lock on a disk without a lock service, which says whom it waits for, since it may be for ever."""

    def acquire(self, timeout: float | None = None, *args: object, **options: object) -> Any:
        """Acquire the lock; see `filelock.BaseFileLock.acquire`."""
        try:
            return super().acquire(0)
        except filelock.Timeout:
            if (self.timeout if timeout is None else timeout) == 0:
                raise
        marker = Path(self.lock_file)
        text = f"waits for {_describe_holder(marker)}; if that does not run any more, delete this file"
        warn_user(f"{marker}: {text}")
        return super().acquire(timeout, *args, **options)  # type: ignore[arg-type]


def _marker(path: Path) -> Path:
    return path if path.stem.endswith(".held") else path.with_name(f"{path.stem}.held{path.suffix}")


def _describe_holder(marker: Path) -> str:
    """Return the process that wrote a marker, as filelock writes it: its number and its computer."""
    try:
        lines = marker.read_text("utf-8", "replace")[:500].split("\n")
    except OSError:
        lines = []
    return f"process {lines[0]} on {lines[1]}" if len(lines) > 1 and lines[0].isdecimal() else "another process"


def _has_lock_service(folder: Path) -> bool:
    """Return False if the disk of a folder has no locks: ENOLCK and EOPNOTSUPP on NFS, ENOSYS on some FUSE systems."""
    if os.name == "nt":
        return True
    import fcntl  # Windows does not have it

    try:
        device = folder.stat().st_dev
        if device not in _services:
            with tempfile.TemporaryFile(dir=folder) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _services[device] = True
    except OSError as error:
        if error.errno not in _NO_SERVICE:
            return True  # the folder is missing or cannot be written, as the lock itself will say
        _services[device] = False
    return _services[device]
