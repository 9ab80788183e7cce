"""Where results go: checked before the work, written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfplus.errors import SfplusError, UsageError
from sfplus.images import write_atomically


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
