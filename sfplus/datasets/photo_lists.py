"""Lists of photos: a path per line in any common encoding, or paths with a NUL byte between them."""

from __future__ import annotations

import codecs
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfplus.io.encodings import decode


@dataclass(frozen=True)
class PhotoList:
    """The paths of a list.

    Attributes:
        paths: Paths that exist, absolute; links are kept.
        missing: Paths that do not exist, as they are written.
    """

    paths: list[Path]
    missing: list[str]


def read_photo_list(data: bytes, folder: Path) -> PhotoList:
    """Find the paths of a list on the disk.

    Lines may be UTF-8, UTF-16, UTF-32 or Windows-1252, with or without a byte order mark, and end with LF, CRLF or CR;
    paths may be quoted, or contain bytes that are in no encoding. Paths with a NUL byte between them, as `find -print0`
    writes them, are recognised. Blank lines, and lines that start with `#` and name no file, are left out. A relative
    path starts at the current folder or, if it does not exist there, at the folder of the list.

    Args:
        data: The contents of the list.
        folder: The folder of the list.
    """
    paths, missing = [], []
    for readings in _entries(data):
        written = [text for reading in readings for text in _unquote(reading)]
        path = next((path for text in written for path in _locate(text, folder)), None)
        if path:
            paths.append(path)
        elif not written[0].lstrip().startswith("#"):
            missing.append(written[-1])
    return PhotoList(paths, missing)


def _entries(data: bytes) -> Iterator[Sequence[str]]:
    """Yield the possible readings of each entry that is not blank."""
    text = decode(data)
    is_wide = text is not None and b"\0" in data
    readings = [] if is_wide else [data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")]
    if text is not None and text not in readings:
        readings.append(text)
    separator = next((character for character in "\0\n" if character in readings[0]), "\r")
    for entry in zip(*(reading.split(separator) for reading in readings), strict=True):
        if entry[0].strip():
            yield entry


def _unquote(line: str) -> list[str]:
    """Return the possible meanings of a line, the literal one first."""
    bare = line.strip()
    meanings = [line, line.removesuffix("\r"), bare]
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        meanings.append(bare[1:-1])
    try:
        words = shlex.split(bare) if {*bare} & {*"\"'\\"} else []
    except ValueError:  # a quotation mark without its partner belongs to the name
        words = []
    return meanings + (words if len(words) == 1 else [])


def _locate(text: str, folder: Path) -> Iterator[Path]:
    """Yield the absolute paths that a text may mean, as far as they exist."""
    for start in ("", folder):
        path = os.path.abspath(os.path.join(start, text))  # noqa: PTH100, PTH118 (keeps links)
        if text and os.path.lexists(path):
            yield Path(path)
