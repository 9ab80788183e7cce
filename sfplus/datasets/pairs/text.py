"""Lines of lists of pairs in any common encoding, with their fields and line numbers."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

from sfplus.errors import PairsError
from sfplus.io.encodings import decode

SEPARATORS = "\t,; "
ACCEPTED = (
    "accepted are lines 'path path label' or 'label path path', also with a fold at the end, separated by tabs, "
    "commas, semicolons or spaces (labels 1 or 0, true or false, yes or no, same or different), and LFW's "
    "'name n1 n2' and 'name1 n1 name2 n2'"
)
_MAX_BYTES = 1 << 30  # the largest list in use, 15.7 million pairs of IJB-C, has 220 MB
_LINE_END = re.compile(r"\r\n|\r|\n")


class Line(NamedTuple):
    """A line of a list.

    Attributes:
        text: the whole line.
        where: `file:line` for messages.
    """

    text: str
    where: str

    def fields(self, separator: str) -> list[str]:
        """Return the fields without the white space around them; a field may be quoted. Empty last fields are dropped.

        Args:
            separator: one of `SEPARATORS`; a space stands for any number of them.
        """
        text = self.text.strip(" ").replace("\t", " ") if separator == " " else self.text
        try:
            fields = [field.strip() for field in next(csv.reader([text], delimiter=separator, skipinitialspace=True))]
        except (csv.Error, StopIteration):
            return []
        while fields and not fields[-1]:
            fields.pop()
        return fields

    def error(self, reason: str, remedy: str = ACCEPTED) -> PairsError:
        """Return an error that shows the line and where it is."""
        return PairsError(f"{self.text.strip()[:80]!r} {reason}", where=self.where, remedy=remedy)


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a list, without blank lines and comments (lines that start with `#`).

    The list may be UTF-8, UTF-16 or UTF-32 with or without a byte order mark (UTF-32 needs it), or else Windows-1252,
    which Latin-1 is read as; lines end with LF, CRLF or CR.

    Raises:
        PairsError: If the file is missing, too large or not text.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PairsError(f"is larger than {_MAX_BYTES >> 20} MiB", where=path, remedy="give a list of pairs")
        text = decode(path.read_bytes())
    except OSError as error:
        remedy = "give a list of pairs, such as LFW's pairs.txt"
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    if text is None:
        raise PairsError("is not a text file", where=path, remedy="give a list of pairs, such as LFW's pairs.txt")
    lines = enumerate(_LINE_END.split(text), 1)
    return [Line(line, f"{path}:{number}") for number, line in lines if line.strip() and line.lstrip()[0] != "#"]
