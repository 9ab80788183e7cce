"""WebDataset shards: tar files in which the files of one picture stand together and share a name up to the first dot.

Read with `tarfile` alone: nothing is extracted, so no name can lead anywhere, and nothing in a shard is unpickled.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sfplus.datasets.records import LARGEST, Item, files_from, named, person_of
from sfplus.errors import DatasetError, PhotoError
from sfplus.images import PHOTO_SUFFIXES

_LABEL, _TEXT, _JSON = "cls", "txt", "json"
_KEYS = ("label", "identity", "person", "cls")
_MOST_TEXT = 1 << 20
_NO_LABEL = f"give it a .{_LABEL}, a .{_JSON} with {' or '.join(_KEYS)}, or a folder of its person in the shard"

Sample = tuple[str, dict[str, tarfile.TarInfo]]


class Shards:
    """The pictures of tar files, in their order.

    The person of a picture is what its `.cls` says, or `label`, `identity`, `person` or `cls` of its `.json`, or else
    its `.txt`, or the folder that it lies in; whole numbers become seven digits. Of several pictures with one name the
    first is taken.

    Args:
        root: what the user named.
        shards: the files.

    Raises:
        DatasetError: a file is no plain tar file, is damaged, or there is no picture in any.
    """

    kind = "shards"
    remarks = ()

    def __init__(self, root: Path, shards: Sequence[Path]) -> None:
        self.root, self._shards = root, list(shards)
        self._counts = [sum(1 for _ in _samples(shard)) for shard in self._shards]
        if not sum(self._counts):
            raise DatasetError("holds no picture", where=root, remedy="give .tar files of pictures with labels")

    def files(self) -> list[Path]:
        """The tar files."""
        return self._shards

    def __len__(self) -> int:
        return sum(self._counts)

    def items(self, start: int = 0) -> Iterator[Item]:
        """The pictures from number `start` on."""
        for shard, first in files_from(self._shards, self._counts, start):
            with shard.open("rb") as file:
                for key, members in islice(_samples(shard), first, None):
                    yield _item(file, key, members)


def _samples(shard: Path) -> Iterator[Sample]:
    """The groups of files that belong to one picture, those without a picture left out."""
    key: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    for member in _members(shard):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if not stem or not member.isreg():  # hidden files, folders, links, devices
            continue
        here = f"{folder}/{stem}".lstrip("/")
        if here != key:
            if key is not None and _picture(members):
                yield key, members
            key, members = here, {}
        members.setdefault(suffix.lower(), member)
    if key is not None and _picture(members):
        yield key, members


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as tar:
            while member := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # or the list of a large shard fills the memory
                yield member
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        reason = f"is no readable tar file ({error})"
        remedy = "get it again; a compressed one must be unpacked first"
        raise DatasetError(reason, where=shard, remedy=remedy) from error


def _picture(members: dict[str, tarfile.TarInfo]) -> str:
    return next((suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in PHOTO_SUFFIXES), "")


def _item(file: BinaryIO, key: str, members: dict[str, tarfile.TarInfo]) -> Item:
    picture = _picture(members)
    name = f"{key}.{picture}"
    try:
        person = _person(file, name, members)
        return Item(name, person, _bytes(file, members[picture], LARGEST, name))
    except PhotoError as error:
        return Item(name, "", error)


def _bytes(file: BinaryIO, member: tarfile.TarInfo, most: int, name: str) -> bytes:
    if member.issparse() or member.size > most:
        raise PhotoError(f"its file '{member.name}' has holes or {member.size:,} bytes", where=name)
    file.seek(member.offset_data)
    return file.read(member.size)


def _person(file: BinaryIO, name: str, members: dict[str, tarfile.TarInfo]) -> str:
    texts = {kind: _bytes(file, members[kind], _MOST_TEXT, name) for kind in (_LABEL, _JSON, _TEXT) if kind in members}
    try:
        if _LABEL in texts:
            found = texts[_LABEL].decode().strip()
        elif _JSON in texts and (value := _from_json(texts[_JSON])) is not None:
            found = value
        elif _TEXT in texts:
            found = texts[_TEXT].decode().strip()
        else:
            found = ""
    except (ValueError, RecursionError) as error:
        raise PhotoError(f"its label cannot be read ({error})", where=name, remedy=_NO_LABEL) from error
    if found:
        return named(found, name)
    if PurePosixPath(name).parent.as_posix() == ".":
        raise PhotoError("has no label", where=name, remedy=_NO_LABEL)
    return person_of(name)


def _from_json(text: bytes) -> str | None:
    values = json.loads(text)
    found = next((values[key] for key in _KEYS if key in values), None) if isinstance(values, dict) else None
    return None if found is None else str(found)
