"""One picture of a person, and what every collection of them can do, however it is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from sfplus.errors import PhotoError
from sfplus.images import Pixels, decode_photo, read_photo

LARGEST = 64 << 20
"""Bytes of one encoded picture; more is no picture of a face."""
_LONGEST = 255
_WHOLE = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, eq=False)
class Item:
    """A picture of a person.

    Attributes:
        name: of the picture, for people; nothing is ever written under it.
        person: whom it shows.
        data: the bytes of the file, its path, uint8 RGB (H, W, 3), or why there is none of these.
    """

    name: str
    person: str
    data: bytes | Path | Pixels | PhotoError = field(repr=False)

    def decode(self) -> Pixels:
        """Its pixels, uint8 RGB (H, W, 3).

        Raises:
            PhotoError: it cannot be decoded.
        """
        if isinstance(self.data, PhotoError):
            raise self.data
        if isinstance(self.data, Path):
            return read_photo(self.data)
        return decode_photo(self.data, Path(self.name)) if isinstance(self.data, bytes) else self.data


class Source(Protocol):
    """Pictures of people in a fixed order."""

    @property
    def kind(self) -> str:
        """How they are stored, for people."""

    @property
    def root(self) -> Path:
        """Where."""

    @property
    def remarks(self) -> Sequence[str]:
        """What a person should know of them, a sentence each."""

    def files(self) -> Sequence[Path]:
        """All that it is read from."""

    def __len__(self) -> int:
        """How many."""

    def items(self, start: int = 0) -> Iterator[Item]:
        """The pictures from number `start` on; those that cannot be had come as an item that says why.

        Raises:
            DatasetError: a file is so damaged that what follows in it cannot be found.
        """


def files_from(files: Sequence[Path], counts: Sequence[int], start: int) -> Iterator[tuple[Path, int]]:
    """The files that hold pictures from number `start` on, and from which of its own on each is wanted."""
    for file, count in zip(files, counts, strict=True):
        if start < count:
            yield file, start
        start = max(0, start - count)


def numbered(label: float, name: str) -> str:
    """The person of a numeric label, in seven digits, so that sorting people by name is sorting them by number.

    Raises:
        PhotoError: the label is negative, no whole number or larger than 2^31.
    """
    if not 0 <= label < 1 << 31 or label != int(label):
        raise PhotoError(f"its label is {str(label)[:30]}", where=name, remedy="labels are whole numbers from 0 on")
    return f"{int(label):07d}"


def named(label: str, name: str) -> str:
    """The person of a label that is text, without the space around it; text that is a number is one.

    Raises:
        PhotoError: the label is empty, longer than a name, no UTF-8, or a number that `numbered` refuses.
    """
    label = label.strip()
    if not label or len(label) > _LONGEST or not label.isprintable():
        raise PhotoError(f"its label is '{label[:30]}'", where=name, remedy=f"names have 1 to {_LONGEST} characters")
    return numbered(int(label), name) if _WHOLE.fullmatch(label) else label


def person_of(name: str) -> str:
    """The person of a picture: the folder that it lies in.

    Raises:
        PhotoError: it lies in none.
    """
    person = PurePosixPath(name).parent.as_posix()
    if person == ".":
        raise PhotoError("is in no person's folder", where=name, remedy="give each person a folder of photos")
    return person
