"""The records of photo collections, and the interface of every storage format."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from sfplus.errors import PhotoError, SfplusError, UsageError
from sfplus.images import Inspect, Pixels, decode_photo, read_photo

PeopleRule = Literal["path", "first-folder", "last-folder"]

_MAX_NAME = 255
_INTEGER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, eq=False)
class Record:
    """An image of a person.

    Attributes:
        name: name of the image in messages and tables; no file is ever written under it.
        person: identity of the person in the image.
        image: the encoded file, its path, its pixels uint8 RGB (H, W, 3), or the error that explains why it cannot be
            read.
    """

    name: str
    person: str
    image: bytes | Path | Pixels | PhotoError = field(repr=False)

    def decode(self, inspect: Inspect | None = None) -> Pixels:
        """Return the pixels of the image, uint8 RGB (H, W, 3).

        Args:
            inspect: is called before a file is decoded (see `read_photo`).

        Raises:
            PhotoError: If the image cannot be decoded.
        """
        if isinstance(self.image, PhotoError):
            raise self.image
        if isinstance(self.image, Path):
            return read_photo(self.image, inspect=inspect)
        return (
            decode_photo(self.image, Path(self.name), inspect=inspect) if isinstance(self.image, bytes) else self.image
        )


class PhotoCollection(ABC):
    """Images of people in a fixed order; each storage format is a subclass.

    A format is a module of `sfplus.datasets.formats` whose subclass is called `FORMAT`; `open_collection` finds it
    there.

    Attributes:
        kind: name of the storage format.
        accepts: the paths that the format opens, for messages: "a .rec file".
        priority: formats with a lower value are tried first.
        root: path that the user gave.
        warnings: sentences that the user should read before the collection is used.
        summary: the numbers of photos and people, where they are known before the photos are read.
    """

    kind: ClassVar[str]
    accepts: ClassVar[str]
    priority: ClassVar[int] = 0
    root: Path
    warnings: Sequence[str] = ()
    summary: str = ""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, split: str) -> PhotoCollection | None:
        """Open a path that exists, or return None if it has another format.

        Args:
            path: file or folder.
            split: of several shards, open only those of this split; see `select_split`.

        Raises:
            DatasetError: If the path has this format but cannot be read.
        """

    def with_people(self, people: PeopleRule) -> PhotoCollection:
        """Return the collection with another rule for people in nested folders, see `person_from_path`.

        Raises:
            UsageError: If it has no folders of people.
        """
        if people != "path":
            reason = f"has no folders of people, {self.kind} names the person of each image"
            raise UsageError(reason, where=self.root, remedy="leave out --people")
        return self

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Return all files that the collection is read from."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of records."""

    @abstractmethod
    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the records from number `start` on; an unreadable image is a record whose `image` is the error.

        Raises:
            DatasetError: If a file is so damaged that the records after the damage cannot be located.
        """


def skip_records(files: Sequence[Path], counts: Sequence[int], start: int) -> Iterator[tuple[Path, int]]:
    """Yield the files that hold records from number `start` on, each with the number of its first such record."""
    for file, count in zip(files, counts, strict=True):
        if start < count:
            yield file, start
        start = max(0, start - count)


def person_from_number(label: float, name: str) -> str:
    """Return the person of a numeric label, padded to seven digits so that names sort like numbers.

    Raises:
        PhotoError: If the label is negative, not an integer, or not below 2^31.
    """
    if not 0 <= label < 1 << 31 or label != int(label):
        raise PhotoError(f"its label is {str(label)[:30]}", where=name, remedy="labels are integers from 0 on")
    return f"{int(label):07d}"


def person_from_text(label: str, name: str) -> str:
    """Return the person of a text label without surrounding white space; text of digits counts as a number.

    Raises:
        PhotoError: If the label is empty, longer than 255 characters, not printable, or an invalid number.
    """
    label = label.strip()
    if not label or len(label) > _MAX_NAME or not label.isprintable():
        raise PhotoError(f"its label is '{label[:30]}'", where=name, remedy=f"names have 1 to {_MAX_NAME} characters")
    return person_from_number(int(label), name) if _INTEGER.fullmatch(label) else label


def person_from_path(name: str, error: type[SfplusError] = PhotoError, people: PeopleRule = "path") -> str:
    """Return the person of an image, which is the folder that contains it.

    Args:
        name: path of the image relative to the root of the collection.
        error: type of the exception.
        people: of an image in nested folders: the person is the `path` of all of them, the `first-folder`, for albums
            inside a person's folder, or the `last-folder`, for parts of a data set that contain folders of people.

    Raises:
        SfplusError: Of the type `error`, if the image is not in a folder.
    """
    person = PurePosixPath(name).parent.as_posix()
    if person == ".":
        raise error("is not in a person's folder", where=name, remedy="put the photos of each person into a folder")
    folders = person.split("/")
    return {"path": person, "first-folder": folders[0], "last-folder": folders[-1]}[people]
