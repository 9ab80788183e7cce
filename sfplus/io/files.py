"""Where results go: checked before the work, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfplus.errors import SfplusError, UsageError

_WRITE_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOENT: "make the folder first",
    errno.ENAMETOOLONG: "use a shorter name",
}


def check_folder(folder: Path) -> None:
    """See that a folder for results is there or can be made; nothing is made yet.

    Raises:
        UsageError: it is a file, or lies below one.
    """
    found = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if found.exists() and not found.is_dir():
        raise UsageError("is no folder", where=found, remedy="choose another one")


def check_file(file: Path) -> None:
    """See that a file for results can be written, as far as that can be known; its folder need not be there yet.

    Raises:
        UsageError: it is a folder, or lies below a file.
    """
    if file.is_dir():
        raise UsageError("is a folder", where=file, remedy="name a file in it")
    check_folder(file.parent)


def check_new(path: Path) -> None:
    """See that a file or folder can be made and that nothing is overwritten.

    Raises:
        UsageError: there is something at this path, or it lies below a file.
    """
    if path.exists() or path.is_symlink():
        raise UsageError("is already there", where=path, remedy="remove it, or choose another name")
    check_folder(path.parent)


def write_or_remove(path: Path, data: bytes | None) -> None:
    """A file with these bytes in one step; without any, no file of that name, such as an earlier call may have left."""
    if data is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, data)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written; its parents are made where missing.

    Raises:
        UsageError: there is something at this path.
        SfplusError: it cannot be written.
    """
    check_new(path)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        part.replace(path)
    except OSError as error:
        raise SfplusError(f"cannot be written: {error.strerror}", where=path, remedy="check the folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def paths_overlap(one: Path, other: Path) -> bool:
    """Whether two paths are the same or one of them lies below the other, links followed."""
    one, other = one.resolve(), other.resolve()
    return one == other or one in other.parents or other in one.parents


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all: into a temporary file beside it, which then takes its place.

    Args:
        path: the file; its folder must exist. An old file is replaced.
        data: the new contents.

    Raises:
        SfplusError: the file cannot be written (full disk, read-only folder, name too long); nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        remedy = _WRITE_REMEDIES.get(error.errno or 0, "check the folder")
        raise SfplusError(f"cannot be written: {error.strerror}", where=path, remedy=remedy) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: object) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def walk_files(root: Path) -> Iterator[str]:
    """The regular files under `root`, sorted, as POSIX paths relative to it."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            yield (Path(folder) / name).relative_to(root).as_posix()
