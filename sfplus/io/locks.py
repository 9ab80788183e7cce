"""Locks between processes, also on disks without a lock service."""

from __future__ import annotations

import errno
import functools
import os
import sys
from pathlib import Path

import filelock

from sfplus.errors import warn_user
from sfplus.io.leftovers import temporary_path

if sys.platform != "win32":
    import fcntl

_NO_SERVICE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def file_lock(path: Path, timeout: float = -1) -> filelock.BaseFileLock:
    """Return a lock, which ends with the process that holds it; it is not acquired yet.

    Network disks may have no lock service. The lock is then a file that exists while the lock is held, with the process
    and the machine that hold it: one of a killed process is taken over on the same machine only. A warning says so.

    Args:
        path: the file of the lock; it stays when the lock is released, unless the disk has no lock service.
        timeout: how long `acquire` waits, in seconds, before it raises `filelock.Timeout`; negative: for ever.
    """
    folder = os.path.abspath(path.parent)  # noqa: PTH100 (keeps links)
    if not os.path.isdir(folder) or _has_service(folder):  # noqa: PTH112 (a string, as above)
        return filelock.FileLock(path, timeout)
    return filelock.SoftFileLock(path, timeout)


@functools.cache
def _has_service(folder: str) -> bool:
    """Return whether files in a folder can be locked; the first call for a folder tries it."""
    if sys.platform == "win32":
        return True
    probe = temporary_path(Path(folder, "lock"))
    try:
        with probe.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_SERVICE:
            return True  # such as a folder that cannot be written, which the lock itself reports
        warn_user(
            f"{folder}: this disk has no lock service ({error.strerror}); "
            "if a process on another machine is killed, delete the .lock files that it leaves",
        )
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
