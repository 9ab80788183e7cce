"""Temporary files and folders, and the deletion of those that a killed process left.

What is written grows under a temporary name `.{machine}-{process}-{start}-{random}.part` beside its destination and is
then moved. The name tells who writes it: as long as this process lives, no other one deletes it. The first temporary
file that a process makes in a folder clears the folder, so the next run of a killed command leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"\.([0-9a-f]{8})-([0-9]{1,9})-([0-9]{1,20})-[0-9a-f]{16}\.part|\.[0-9a-f]{16}\.part")
_MAX_AGE = 24 * 3600  # seconds; older temporary files of another machine, and of earlier versions, are leftovers
_cleared: set[str] = set()  # the folders that this process has cleared


def temporary_path(path: Path) -> Path:
    """Return a new name for a file or folder that is written and then moved to `path`; both have the same parent.

    The first call for a parent folder deletes the leftovers in it.
    """
    parent = os.path.abspath(path.parent)  # noqa: PTH100 (keeps links)
    if parent not in _cleared:
        _cleared.add(parent)
        with contextlib.suppress(OSError):  # it is missing or cannot be read, which the writer reports
            _remove(parent, os.listdir(parent))  # noqa: PTH208 (names are enough)
    return path.with_name(f".{_owner(os.getpid())}-{secrets.token_hex(8)}.part")


def remove_leftovers(folder: Path, *, locked: bool = False) -> None:
    """Delete the temporary files and folders in a folder and below it that no living process writes.

    Those of another machine, whose processes cannot be seen, are deleted when they are older than a day.

    Args:
        folder: the folder.
        locked: whether the caller holds a lock, so that nobody else writes in the folder: all of them are deleted.
    """
    for parent, folders, files in os.walk(folder):
        _remove(parent, [*folders, *files], locked)
        folders[:] = [name for name in folders if not _NAME.fullmatch(name)]


def _remove(parent: str, names: Iterable[str], locked: bool = False) -> None:
    for name in names:
        if not (match := _NAME.fullmatch(name)):
            continue
        path = Path(parent, name)
        if locked or _is_leftover(path, *match.groups()):
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_leftover(path: Path, machine: str | None, process: str, start: str) -> bool:
    if machine == _machine():
        return not _is_alive(int(process), start)
    try:
        return time.time() - path.lstat().st_mtime > _MAX_AGE
    except OSError:
        return False


@functools.cache
def _machine() -> str:
    """Return 8 hexadecimal digits that differ between machines and between containers, where process ids differ."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text("ascii", "replace"))
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


@functools.cache
def _owner(process: int) -> str:  # the argument, because a fork has another id
    return f"{_machine()}-{process}-{_start_time(process) or 0}"


def _is_alive(process: int, start: str) -> bool:
    """Return whether the process runs that had this id at this time; True if that cannot be found out."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return _start_time(process) in (None, start)


def _start_time(process: int) -> str | None:
    """Return when a process started, in clock ticks since the machine did; "" if it has ended, None if unknown."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except (OSError, ValueError, IndexError):
        return None
