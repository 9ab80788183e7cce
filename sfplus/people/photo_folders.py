"""A folder of links or copies of photos for each person."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sfplus.errors import ArtefactError, warn_user
from sfplus.images import CACHE
from sfplus.io.files import write_json
from sfplus.io.json_files import RelativeName, read_json
from sfplus.io.leftovers import remove_leftovers, temporary_path

PEOPLE_FOLDER = "people"
_RECORD = f"{CACHE}/group/photo_folders.json"
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f/\\:*?"<>|]+')
_MAX_NAME = 80  # characters


def folder_name(name: str) -> str:
    """Return a person's name as the name of a folder on any system."""
    text = _NOT_IN_NAMES.sub(" ", name).strip(" .")[:_MAX_NAME].strip(" .")
    return text or "_"


def write_photo_folders(out: Path, photos: Path, links: Mapping[str, str], copy: bool) -> None:
    """Make OUT/people hold certain links or copies of photos, and remove those of an earlier call.

    Files that somebody else put there stay.

    Args:
        out: The folder of the results.
        photos: The folder of the photos.
        links: The photo, relative to `photos`, by its path in OUT/people.
        copy: Whether to copy photos; else links are made.
    """
    record, root, photos = out / _RECORD, out / PEOPLE_FOLDER, photos.resolve()
    earlier = set(_read_record(record))
    remove_leftovers(record.parent)  # not all: another run saves its faces here before it waits for the lock
    write_json(record, sorted({*earlier, *links}))  # before the files: what a killed process wrote is removed later
    for name in earlier - set(links):
        _remove(root, name)
    for name, photo in links.items():
        target, path = photos / photo, root / name
        if target.is_symlink():  # of a list of photos
            target = target.resolve()
        if _is_current(path, target, copy):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_path(record)
        if copy:
            shutil.copy2(target, partial)
        else:
            partial.symlink_to(target)
        partial.replace(path)
    write_json(record, sorted(links))


def _read_record(record: Path) -> list[str]:
    """Return the links and copies of an earlier call; none, with a warning, if the record is damaged."""
    if not record.exists():
        return []
    try:
        return read_json(record, list[RelativeName], remedy="the links and copies of an earlier call stay")
    except ArtefactError as error:
        warn_user(str(error))
        return []


def _is_current(path: Path, target: Path, copy: bool) -> bool:
    if not copy:
        return path.is_symlink() and path.readlink() == target
    if path.is_symlink() or not path.is_file():
        return False
    copied, original = path.stat(), target.stat()
    return (copied.st_size, copied.st_mtime_ns) == (original.st_size, original.st_mtime_ns)


def _remove(root: Path, name: str) -> None:
    """Delete a link or copy and the folders that become empty."""
    with contextlib.suppress(OSError):
        (root / name).unlink()
    with contextlib.suppress(OSError):  # not empty
        for folder in PurePosixPath(name).parents[:-1]:
            (root / folder).rmdir()
