"""Lines of lists of pairs, with their fields and line numbers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sfplus.errors import PairsError

_MAX_BYTES = 1 << 30  # the largest list in use, 15.7 million pairs of IJB-C, has 220 MB


class Line(NamedTuple):
    """A line of a list.

    Attributes:
        text: the whole line.
        fields: its fields.
        where: `file:line` for messages.
    """

    text: str
    fields: list[str]
    where: str


def read_lines(path: Path, separators: str = "\t") -> list[Line]:
    """Read the lines of a list without the blank lines at its end.

    The list is UTF-8 with or without a byte order mark; lines end with LF or CRLF. Fields are separated by the first of
    `separators` that occurs in a line, or else by white space.

    Raises:
        PairsError: If the file is missing, too large or not UTF-8.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PairsError(f"is larger than {_MAX_BYTES >> 20} MiB", where=path, remedy="give a list of pairs")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        remedy = "give a list of pairs, such as LFW's pairs.txt"
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise PairsError("is not UTF-8 text", where=path, remedy="save the list as UTF-8") from error
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [Line(line, _split_fields(line, separators), f"{path}:{n}") for n, line in enumerate(lines, 1)]


def _split_fields(line: str, separators: str) -> list[str]:
    separator = next((mark for mark in separators if mark in line), None)
    return line.split(separator)
