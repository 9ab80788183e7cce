"""Where results go: checked before the work, not after it."""

from __future__ import annotations

from pathlib import Path

from sfplus.errors import UsageError


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
