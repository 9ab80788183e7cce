"""What is written whole, in the place of what was there or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfplus.errors import SfplusError, UsageError
from sfplus.images import write_atomically


def check_new(path: Path) -> None:
    """Nothing that exists is overwritten.

    Raises:
        UsageError: there is something at this path.
    """
    if path.exists() or path.is_symlink():
        raise UsageError("is already there", where=path, remedy="remove it, or choose another name")


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
