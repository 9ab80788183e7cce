"""The size, modification time and SHA-256 of each file of an artefact, by which damage is noticed when it is used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from typing_extensions import TypedDict

from sfplus.errors import ArtefactError, SfplusError
from sfplus.io.disk import flush, for_each_file
from sfplus.io.files import digest_json, file_digest, write_json
from sfplus.io.json_files import read_json

RECORD = "files.json"
_REMEDY = "check the disk"


class _File(NamedTuple):
    size: int
    time: int  # nanoseconds
    sha256: str


class _Record(TypedDict):
    names: list[str]
    files: list[tuple[int, int, str]]


def content_digest(digests: Iterable[tuple[str, str]]) -> str:
    """Return one SHA-256 over the names and digests of files, in their order."""
    return digest_json([list(item) for item in digests])


def digest_all(
    folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None, *, durable: bool = False
) -> dict[str, str]:
    """Return the SHA-256 of files by their names, which are POSIX paths relative to their folder.

    Args:
        folder: The folder.
        names: The files.
        known: Files whose SHA-256 is known and that are on the disk: they are not read.
        durable: Whether to flush the others to the disk as well.

    Raises:
        ArtefactError: If a file cannot be read.
    """
    digests = {name: (known or {}).get(name, "") for name in names}
    unknown = [name for name, digest in digests.items() if not digest]
    return digests | dict(zip(unknown, for_each_file(partial(_digest, folder, durable), unknown), strict=True))


def write_record(folder: Path, digests: Mapping[str, str]) -> dict[str, int]:
    """Write the record of files whose SHA-256 is known by name, and return their sizes in bytes."""
    stamps = [stamp or (0, 0) for stamp in _stamps(folder, digests)]
    files = [[*stamp, digest] for stamp, digest in zip(stamps, digests.values(), strict=True)]
    write_json(folder / RECORD, {"names": list(digests), "files": files}, separators=(",", ":"))
    return dict(zip(digests, (size for size, _ in stamps), strict=True))


def remember(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the record of an artefact whose content was compared, if the disk can be written."""
    with contextlib.suppress(SfplusError, OSError):
        write_record(folder, digests)


def find_changes(folder: Path, *, all_content: bool = False) -> str | None:
    """Compare the files of an artefact with its record.

    Sizes and times are compared, and the content of a file only if its time differs: after a copy of the workspace
    it is compared once, and the new times are remembered.

    Args:
        folder: The folder of the artefact.
        all_content: Whether the content of all files is compared.

    Returns:
        The first file that was changed and how; "" if none was, None if there is no readable record.

    Raises:
        ArtefactError: If a file cannot be read, which may be a fault of the disk.
    """
    if (record := read_record(folder)) is None:
        return None
    stamps = _stamps(folder, record)
    for (name, file), stamp in zip(record.items(), stamps, strict=True):
        if stamp is None:
            return f"{name} is missing"
        if stamp[0] != file.size:
            return f"{name} has {stamp[0]} bytes, not {file.size}"
    moved = [name for (name, file), stamp in zip(record.items(), stamps, strict=True) if stamp != file[:2]]
    for name, digest in digest_all(folder, record if all_content else moved).items():
        if digest != record[name].sha256:
            return f"{name} was changed"
    if moved:
        remember(folder, {name: file.sha256 for name, file in record.items()})
    return ""


def read_record(folder: Path) -> dict[str, _File] | None:
    """Return the record of an artefact; None if there is none that can be read."""
    try:
        data = read_json(folder / RECORD, _Record, remedy=_REMEDY, limit="record_bytes")
        return {name: _File(*file) for name, file in zip(data["names"], data["files"], strict=True)}
    except (SfplusError, ValueError):
        return None


def read_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of an artefact by name, as its record has them; none if it cannot be read."""
    return {name: file.sha256 for name, file in (read_record(folder) or {}).items()}


def _stamps(folder: Path, names: Iterable[str]) -> list[tuple[int, int] | None]:
    """Return the size and modification time of files; None for one that is missing."""
    root, stamps = os.fspath(folder), list[tuple[int, int] | None]()
    for name in names:
        try:
            status = os.stat(f"{root}/{name}")  # noqa: PTH116 (pathlib is slow for 500,000 files)
            stamps.append((status.st_size, status.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            stamps.append(None)
        except OSError as error:
            raise ArtefactError(f"cannot be read: {error.strerror}", where=folder / name, remedy=_REMEDY) from error
    return stamps


def _digest(folder: Path, durable: bool, name: str) -> str:
    path = folder / name
    try:
        digest = file_digest(path)
    except OSError as error:
        raise ArtefactError(f"cannot be read: {error.strerror}", where=path, remedy=_REMEDY) from error
    if durable:
        flush(path)
    return digest
