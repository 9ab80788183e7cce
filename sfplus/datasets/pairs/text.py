"""Lines of lists of pairs in any common encoding, with their fields and line numbers."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sfplus.errors import PairsError
from sfplus.images import PHOTO_SUFFIXES
from sfplus.io.encodings import decode
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit

SEPARATORS = "\t,; "
ACCEPTED = (
    "accepted are lines 'path path label' or 'label path path', also with a fold at the end, separated by tabs, "
    "commas, semicolons or spaces (labels 1 or 0, true or false, yes or no, same or different), and LFW's "
    "'name n1 n2' and 'name1 n1 name2 n2'"
)
_LINE_END = re.compile(r"\r\n|\r|\n")
PHOTO_ENDS = tuple(PHOTO_SUFFIXES)
_COMMENT = re.compile(r"(^|\s+)#")


class Line(NamedTuple):
    """A line of a list.

    Attributes:
        text: the whole line.
        where: `file:line` for messages.
    """

    text: str
    where: str

    def fields(self, separator: str) -> list[str]:
        """Return the fields without the white space around them, without empty last fields and without a comment.

        A field may be quoted, by `"` or by `'`. A comment is `#` and all behind it, after white space or a separator
        and after at least three fields.

        Args:
            separator: one of `SEPARATORS`; a space stands for any number of them.
        """
        text = self.text.strip(" ").replace("\t", " ") if separator == " " else self.text
        quote = "'" if "'" in text and re.search(rf"(^|{separator})\s*'[^']+'\s*({separator}|$)", text) else '"'
        reader = csv.reader([text], delimiter=separator, quotechar=quote, skipinitialspace=True)
        try:
            fields = [field.strip() for field in next(reader)]
        except (csv.Error, StopIteration):
            return []
        if "#" in text:
            fields = _without_comment(fields)
        while fields and not fields[-1]:
            fields.pop()
        return fields

    def error(self, reason: str, remedy: str = ACCEPTED) -> PairsError:
        """Return an error that shows the line and where it is."""
        return PairsError(f"{self.text.strip()[:80]!r} {reason}", where=self.where, remedy=remedy)


def _without_comment(fields: list[str]) -> list[str]:
    """Return the fields before `# ...`; the third field may end in a comment, and those behind it may be one."""
    for i, field in enumerate(fields[2:], 2):
        mark = _COMMENT.search(field)
        if mark and (mark.start() or i > 2) and not field.lower().endswith(PHOTO_ENDS):  # `photo #2.jpg` is a name
            return [*fields[:i], *[field[: mark.start()]] * bool(mark.start())]
    return fields


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a list, without blank lines and comments (lines that start with `#`).

    The list may be UTF-8, UTF-16 or UTF-32 with or without a byte order mark (UTF-32 needs it), or else Windows-1252,
    which Latin-1 is read as; lines end with LF, CRLF or CR.

    Raises:
        PairsError: If the file is missing, too large or not text.
    """
    try:
        check_limit("text_bytes", file_size(path), path, error=PairsError)
        text = decode(path.read_bytes())
    except OSError as error:
        remedy = "give a list of pairs, such as LFW's pairs.txt"
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    if text is None:
        raise PairsError("is not a text file", where=path, remedy="give a list of pairs, such as LFW's pairs.txt")
    lines = enumerate(_LINE_END.split(text), 1)
    return [Line(line, f"{path}:{number}") for number, line in lines if line.strip() and line.lstrip()[0] != "#"]


def is_number(field: str) -> bool:
    """Return True if a field is a finite number."""
    try:
        return field.isascii() and "_" not in field and math.isfinite(float(field))
    except ValueError:
        return False


def may_be_header(row: Sequence[str]) -> bool:
    """Return True if a line has at least three fields, and none of them is a number or the path of a photo."""
    is_path = [field.lower().endswith(PHOTO_ENDS) or "/" in field or "\\" in field for field in row]
    return len(row) > 2 and not any(is_path) and not any(map(is_number, row))


def no_pairs_error(lines: Sequence[Line]) -> PairsError:
    """Return the error for a list whose first lines are not pairs; it shows the line below a header."""
    has_header = len(lines) > 1 and any(may_be_header(lines[0].fields(separator)) for separator in SEPARATORS)
    return lines[int(has_header)].error("is not a pair")
