"""Disks that are full, broken or lose power: flushed files, and one line for each failure to write."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sfplus.errors import SfplusError

Item = TypeVar("Item")
Result = TypeVar("Result")

_WRITE_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "use a disk and limits that allow larger files",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOENT: "make the folder first",
    errno.ENAMETOOLONG: "use a shorter name",
}
_FILES_AT_A_TIME = 8  # the disk writes its journal once for all of them
_CANNOT_FLUSH = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS})
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# How libraries say it that raise no OSError with its number: safetensors, numpy, torch, SQLite.
_FULL_DISK_TEXT = re.compile(
    rf"os error ({'|'.join(map(str, sorted(_FULL_DISK)))})\b|\d+ requested and \d+ written"
    r"|failed writing file|unexpected pos \d+ vs \d+|database or disk is full"
)


@contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Turn the failure to write a file, by whatever library, into one line with a remedy.

    Raises:
        SfplusError: If the block raises an OSError of the system, or another exception because the disk is full.
    """
    try:
        with explain_full_disk(path):
            yield
    except OSError as error:
        if error.errno is None:  # not of the system, such as the time-out of a lock
            raise
        raise _write_error(path, error) from error


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn any exception that a full disk causes, also in other libraries, into one line; others pass.

    Args:
        path: the folder or file that is written, for the message.

    Raises:
        SfplusError: If the block raises an exception because the disk is full.
    """
    try:
        yield
    except SfplusError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (match := _FULL_DISK_TEXT.search(str(error))):
            number = int(match[1] or errno.ENOSPC)
        if number not in _FULL_DISK:
            raise
        raise _write_error(path, OSError(number, os.strerror(number))) from error


def flush(path: Path | str) -> None:
    """Flush a file or folder to the disk, so that it survives a power cut, on systems that can do this.

    Raises:
        OSError: If the disk is full or broken.
    """
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush all files in a folder and below it to the disk, several at a time, and then the folders."""
    files, folders = [], []
    for parent, _, names in os.walk(folder):
        folders.append(Path(parent))
        files += [path for path in (Path(parent, name) for name in names) if not path.is_symlink()]
    flush_all([*files, *folders])


def flush_all(paths: Iterable[Path | str]) -> None:
    """Flush files and folders to the disk, several at a time."""
    for_each_file(flush, paths)


def for_each_file(function: Callable[[Item], Result], files: Iterable[Item]) -> list[Result]:
    """Return `function(file)` for each file, in order; several are worked on at a time, while others wait for the disk.

    Each thread takes its share at once: to start a task for each of many small files takes longer than the work.
    """
    files = list(files)
    results: list[Any] = [None] * len(files)
    shares = [slice(start, None, _FILES_AT_A_TIME) for start in range(min(_FILES_AT_A_TIME, len(files)))]

    def work(share: slice) -> None:
        results[share] = [function(file) for file in files[share]]

    if shares:
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(work, shares))
    return results


def _write_error(path: Path, error: OSError) -> SfplusError:
    remedy = _WRITE_REMEDIES.get(error.errno or 0, "check the folder")
    return SfplusError(f"cannot be written: {error.strerror}", where=path, remedy=remedy)
