"""WebDataset shards: tar files in which the files of one sample are adjacent and share a name up to the first dot.

Shards are read with `tarfile` alone. Nothing is extracted or unpickled, so names in a shard cannot point outside
it.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sfplus.datasets.records import PhotoCollection, Record, person_from_path, person_from_text, skip_records
from sfplus.datasets.shards import list_shards, select_split
from sfplus.datasets.tar_files import tar_members
from sfplus.errors import DatasetError, PhotoError, explain_damage
from sfplus.images import PHOTO_SUFFIXES
from sfplus.io.limits import check_limit

_LABEL, _TEXT, _JSON = "cls", "txt", "json"
_JSON_KEYS = ("label", "identity", "person", "cls")
_REMEDY = "download it again; a compressed tar file must be decompressed first"
_NO_LABEL = f"add a .{_LABEL} file, a .{_JSON} file with {' or '.join(_JSON_KEYS)}, or a folder per person in the shard"

Sample = tuple[str, dict[str, tarfile.TarInfo]]
"""The name of a sample, and its files by suffix."""


class WebDataset(PhotoCollection):
    """The images of tar files, in the order of the files.

    The person of an image is the content of its `.cls` file, or `label`, `identity`, `person` or `cls` of its `.json`
    file, or the content of its `.txt` file, or its folder in the shard, in this order. Integers are padded to seven
    digits. Of several images with one name, only the first is used.

    Args:
        root: path that the user gave.
        shards: tar files.

    Raises:
        DatasetError: If a file is not an uncompressed tar file or is damaged, or no file contains an image.
    """

    kind = "shards"
    accepts = ".tar shards"
    priority = 2

    def __init__(self, root: Path, shards: Sequence[Path]) -> None:
        self.root, self._shards = root, list(shards)
        self._counts = [sum(1 for _ in _samples(shard)) for shard in self._shards]
        if not sum(self._counts):
            raise DatasetError("contains no image", where=root, remedy="give .tar files of images with labels")

    @classmethod
    def open(cls, path: Path, split: str) -> WebDataset | None:
        """Open a `.tar` file, or a folder of `.tar` files."""
        if path.is_file():
            return cls(path, [path]) if path.suffix == ".tar" else None
        shards = list_shards(path, "*.tar")
        return cls(path, select_split(path, shards, split)) if shards else None

    def files(self) -> list[Path]:
        """Return the tar files."""
        return self._shards

    def __len__(self) -> int:
        return sum(self._counts)

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the images from number `start` on."""
        for shard, first in skip_records(self._shards, self._counts, start):
            with explain_damage(shard, remedy=_REMEDY, error=DatasetError):
                file = shard.open("rb")
            with file:
                for key, members in islice(_samples(shard), first, None):
                    yield _record(file, key, members)


def _samples(shard: Path) -> Iterator[Sample]:
    """Yield the samples that contain an image."""
    key: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    for member, _ in tar_members(shard, _REMEDY):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if not stem or not member.isreg():  # hidden files, folders, links, devices
            continue
        member_key = f"{folder}/{stem}".lstrip("/")
        if member_key != key:
            if key is not None and _image_suffix(members):
                yield key, members
            key, members = member_key, {}
        members.setdefault(suffix.lower(), member)
    if key is not None and _image_suffix(members):
        yield key, members


def _image_suffix(members: dict[str, tarfile.TarInfo]) -> str:
    """Return the suffix of the first image of a sample, or an empty string."""
    return next((suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in PHOTO_SUFFIXES), "")


def _record(file: BinaryIO, key: str, members: dict[str, tarfile.TarInfo]) -> Record:
    suffix = _image_suffix(members)
    name = f"{key}.{suffix}"
    try:
        person = _person(file, name, members)
        return Record(name, person, _read_member(file, members[suffix], "encoded_image_bytes", name))
    except PhotoError as error:
        return Record(name, "", error)


def _read_member(file: BinaryIO, member: tarfile.TarInfo, limit: str, name: str) -> bytes:
    if member.issparse():
        raise PhotoError(f"its file '{member.name}' is sparse", where=name)
    check_limit(limit, member.size, name, error=PhotoError)
    with explain_damage(name, remedy=_REMEDY, error=PhotoError):
        file.seek(member.offset_data)
        return file.read(member.size)


def _person(file: BinaryIO, name: str, members: dict[str, tarfile.TarInfo]) -> str:
    suffixes = [suffix for suffix in (_LABEL, _JSON, _TEXT) if suffix in members]
    contents = {suffix: _read_member(file, members[suffix], "label_bytes", name) for suffix in suffixes}
    try:
        if _LABEL in contents:
            label = contents[_LABEL].decode().strip()
        elif _JSON in contents and (value := _label_from_json(contents[_JSON])) is not None:
            label = value
        elif _TEXT in contents:
            label = contents[_TEXT].decode().strip()
        else:
            label = ""
    except (ValueError, RecursionError) as error:
        raise PhotoError(f"its label cannot be read ({error})", where=name, remedy=_NO_LABEL) from error
    if label:
        return person_from_text(label, name)
    if PurePosixPath(name).parent.as_posix() == ".":
        raise PhotoError("has no label", where=name, remedy=_NO_LABEL)
    return person_from_path(name)


def _label_from_json(content: bytes) -> str | None:
    values = json.loads(content)
    label = next((values[key] for key in _JSON_KEYS if key in values), None) if isinstance(values, dict) else None
    return None if label is None else str(label)


FORMAT = WebDataset
