"""Files and folders that are written completely or not at all, checks of output paths, and digests.

Files and folders grow under a temporary name in the folder of their destination, are flushed to the disk and are then
moved, so that a reader never sees half a file, not even after a power cut; `leftovers` deletes those of a killed
process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sfplus.errors import UsageError
from sfplus.io.disk import explain_write, flush, flush_folder, for_each_file
from sfplus.io.leftovers import temporary_path

_CHUNK = 1 << 20  # bytes that are read at a time


def check_folder(folder: Path) -> None:
    """Check that an output folder exists or can be created, without creating it.

    Raises:
        UsageError: If the path or one of its parents is a file.
    """
    ancestor = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if ancestor.exists() and not ancestor.is_dir():
        raise UsageError("is not a folder", where=ancestor, remedy="choose another one")


def check_file(file: Path) -> None:
    """Check that an output file can be created; its folder may still be missing.

    Raises:
        UsageError: If the path is a folder, or one of its parents is a file.
    """
    if file.is_dir():
        raise UsageError("is a folder", where=file, remedy="name a file in it")
    check_folder(file.parent)


def check_input(path: Path, kind: Literal["file", "folder"] | None = None) -> None:
    """Check that an input exists, before any work.

    Args:
        path: the path that the user gave.
        kind: what it has to be; None for either.

    Raises:
        UsageError: If there is nothing, or the other kind.
    """
    if not path.exists():
        raise UsageError("does not exist", where=path, remedy="check the path")
    if kind == "file" and path.is_dir():
        raise UsageError("is a folder", where=path, remedy="give a file")
    if kind == "folder" and not path.is_dir():
        raise UsageError("is not a folder", where=path, remedy="give a folder")


def check_new(path: Path) -> None:
    """Check that a file or folder can be created without overwriting anything.

    Raises:
        UsageError: If the path already exists, or one of its parents is a file.
    """
    if path.exists() or path.is_symlink():
        raise UsageError("already exists", where=path, remedy="remove it, or choose another name")
    check_folder(path.parent)


def paths_overlap(first: Path, second: Path) -> bool:
    """Return True if two paths are the same or one contains the other, after following links."""
    first, second = first.resolve(), second.resolve()
    return first == second or first in second.parents or second in first.parents


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; the file written there replaces `path` when the block succeeds.

    Args:
        path: the destination, whose folder must exist.
        sync: flush the file to the disk before it is moved, and the move after it, so that a power cut leaves the old
            file or the new one. False is for one of many files, which are flushed together (see `flush_folder`).

    Raises:
        SfplusError: If the file cannot be written. No temporary file is left, after any exception.
    """
    path = Path(path)
    part = temporary_path(path)
    with explain_write(path):
        try:
            yield part
            if sync:
                flush(part)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if sync:
            flush(path.parent)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder in the same parent folder; it is moved to `path` when the block succeeds.

    All files in it are flushed to the disk before the move.

    Args:
        path: the destination; missing parents are created.
        replace: delete an existing folder at `path` before the move.

    Raises:
        UsageError: If the path already exists and `replace` is False.
        SfplusError: If the folder cannot be written. No temporary folder is left, after any exception.
    """
    if replace:
        check_folder(path.parent)
    else:
        check_new(path)
    part = temporary_path(path)
    with explain_write(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
            yield part
            flush_folder(part)
            if replace and path.exists():
                shutil.rmtree(path)
            part.replace(path)
            flush(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write bytes to a file, which replaces an existing one.

    Args:
        path: the file; its folder must exist.
        data: its new contents.
        sync: as for `atomic_file`.

    Raises:
        SfplusError: If the file cannot be written (full disk, read-only folder, name too long).
    """
    with atomic_file(path, sync=sync) as part, part.open("xb") as file:
        file.write(data)


def write_json(path: Path, value: object, *, sync: bool = True, **options: Any) -> None:
    """Write a value as JSON, as `write_atomically` does; `options` are those of `json.dumps`, such as `indent`."""
    write_atomically(path, json.dumps(value, **options).encode(), sync=sync)


def write_or_remove(path: Path, data: bytes | None) -> None:
    """Write bytes to a file; with None, delete the file that an earlier call may have left."""
    if data is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, data)


def remove_folder(folder: Path) -> None:
    """Delete a folder with all that is in it, as far as that is possible.

    Several subfolders are deleted at a time: file systems that log each deletion wait for every one.
    """
    with contextlib.suppress(OSError):
        for_each_file(_remove_files, [inner for sub in _subfolders(folder) for inner in _subfolders(sub)])
    shutil.rmtree(folder, ignore_errors=True)


def _subfolders(folder: Path | str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _remove_files(folder: str) -> None:
    """Delete a folder of files; `shutil.rmtree` takes twice as long for a small one."""
    with contextlib.suppress(OSError):  # a folder in it, which the caller deletes
        for name in os.listdir(folder):  # noqa: PTH208 (pathlib is slow for 500,000 files)
            os.unlink(f"{folder}/{name}")  # noqa: PTH108
        os.rmdir(folder)  # noqa: PTH106


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; a pipe or a device, whose reader may wait for ever, is refused.

    Raises:
        OSError: If it is missing, or a pipe or a device.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status.st_size


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
    """
    size, digest = file_size(path), hashlib.sha256()
    with path.open("rb", buffering=0) as file:  # `hashlib.file_digest` fills a buffer of 256 KB for each small file
        while data := file.read(min(size + 1, _CHUNK)):
            digest.update(data)
    return digest.hexdigest()


def digest_json(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def walk_files(root: Path) -> Iterator[str]:
    """Yield the files below `root`, sorted, as POSIX paths relative to it."""
    start = len(os.path.join(root, ""))  # noqa: PTH118 (pathlib is slow for 500,000 files)
    for folder, folders, files in os.walk(root):
        folders.sort()
        prefix = folder[start:].replace(os.sep, "/")
        for name in sorted(files):
            yield f"{prefix}/{name}" if prefix else name
