"""Lines of a list of pairs, with their fields and where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sfplus.errors import PairsError

_MOST = 1 << 30  # bytes; the largest list in use, IJB-C's 15.7 million pairs, has 220 MB


class Line(NamedTuple):
    """A line: its text, its fields and `file:line`."""

    text: str
    fields: list[str]
    where: str


def read_lines(path: Path, separators: str = "\t") -> list[Line]:
    """Read the lines of a list; those at its end that are blank are left out.

    UTF-8, with or without a byte order mark; lines end with LF or CRLF. Fields are separated by the first of
    `separators` that a line holds, else by white space.

    Raises:
        PairsError: the file is missing, too large or not UTF-8.
    """
    try:
        if path.stat().st_size > _MOST:
            raise PairsError(f"is larger than {_MOST >> 20} MiB", where=path, remedy="name a list of pairs")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        remedy = "name a list of pairs, such as LFW's pairs.txt"
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise PairsError("is not UTF-8 text", where=path, remedy="save the pair list as UTF-8") from error
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [Line(line, _fields(line, separators), f"{path}:{n}") for n, line in enumerate(lines, 1)]


def _fields(line: str, separators: str) -> list[str]:
    separator = next((mark for mark in separators if mark in line), None)
    return line.split(separator)
