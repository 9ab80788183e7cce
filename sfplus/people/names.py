"""Names of people and corrections of the user's: `people.csv` and `corrections.csv` beside the grouped photos."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sfplus.errors import DatasetError, short_repr
from sfplus.io.encodings import decode
from sfplus.io.files import file_size, write_atomically
from sfplus.io.limits import check_limit

PEOPLE_CSV, CORRECTIONS_CSV = "people.csv", "corrections.csv"
_MAX_DIGITS = 9
_ID = re.compile(r"person-(\d{1,9})")


class Correction(NamedTuple):
    """A face that the user moved to another person.

    Attributes:
        photo: The photo, relative to the folder of photos.
        face: The number of the face in the photo.
        person: The id or name of the person; empty for somebody who is not among the people yet.
    """

    photo: str
    face: int
    person: str


def person_id(number: int) -> str:
    """Return the id of a person: `person-00012`."""
    return f"person-{number:05d}"


def person_number(text: str) -> int | None:
    """Return the number of a person's id; None for any other text."""
    match = _ID.fullmatch(text)
    return int(match[1]) if match else None


def read_names(folder: Path) -> dict[int, str]:
    """Return the names in `people.csv` by the number of the person.

    People with the same name are one person: all their numbers have the name. A line without a name is left out.

    Raises:
        DatasetError: If the file is not text, or a line does not begin with the id of a person.
    """
    names: dict[int, str] = {}
    for where, row in _read(folder / PEOPLE_CSV, ("person", "name")):
        number = person_number(row["person"])
        if number is None:
            reason = f"{short_repr(row['person'])} is not the id of a person, such as {person_id(1)}"
            raise DatasetError(reason, where=where, remedy="change only the column name")
        if row["name"]:
            names[number] = row["name"]
    return names


def write_names(folder: Path, rows: Iterable[tuple[int, str, int, int]]) -> None:
    """Write `people.csv`.

    Args:
        folder: The folder for the file.
        rows: Number, name, photos and faces of each person.
    """
    table = ([person_id(number), name, photos, faces] for number, name, photos, faces in rows)
    _write(folder / PEOPLE_CSV, ("person", "name", "photos", "faces"), table)


def read_corrections(folder: Path) -> list[Correction]:
    """Return the rows of `corrections.csv`, of which the last counts for a face.

    Raises:
        DatasetError: If the file is not text, or the number of a face is not a number.
    """
    corrections: dict[tuple[str, int], Correction] = {}
    for where, row in _read(folder / CORRECTIONS_CSV, ("photo", "face", "person")):
        if not _is_count(row["face"]):
            reason = f"{short_repr(row['face'])} is not the number of a face"
            raise DatasetError(reason, where=where, remedy="use the columns photo, face and person")
        key = row["photo"], int(row["face"])
        corrections.pop(key, None)
        corrections[key] = Correction(*key, row["person"])
    return list(corrections.values())


def write_corrections(folder: Path, corrections: Sequence[Correction]) -> None:
    """Write `corrections.csv`, or delete it if there is no correction."""
    if corrections:
        _write(folder / CORRECTIONS_CSV, Correction._fields, corrections)
    else:
        (folder / CORRECTIONS_CSV).unlink(missing_ok=True)


def _read(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `file:line` and some columns of each row of a CSV file, in any common encoding and with any separator."""
    if not path.is_file():
        return
    check_limit("people_bytes", file_size(path), path, error=DatasetError)
    text = decode(path.read_bytes())
    if text is None:
        raise DatasetError("is not a text file", where=path, remedy="save it as CSV, or delete it")
    first_line = text.lstrip("\r\n").partition("\n")[0]
    separator = max(",;\t", key=first_line.count)  # spreadsheets write semicolons in many countries
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        if missing := [name for name in columns if name not in (rows.fieldnames or [])]:
            reason = f"has no column {missing[0]!r}"
            raise DatasetError(reason, where=path, remedy=f"begin with the line {','.join(columns)}")
        for row in rows:
            yield f"{path}:{rows.line_num}", {name: _clean(name, row[name] or "") for name in columns}
    except csv.Error as error:
        raise DatasetError(f"is not a CSV file ({error})", where=path, remedy="save it as CSV, or delete it") from error


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _clean(column: str, text: str) -> str:
    """Return a cell without outer spaces, and equal names as equal texts; a photo is named as its file is."""
    return text if column == "photo" else unicodedata.normalize("NFC", text.strip())


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def save_changes(folder: Path, names: Mapping[str, str], moves: Iterable[tuple[str, int, str]]) -> None:
    """Add names and corrections to `people.csv` and `corrections.csv`; `regroup` applies them.

    Args:
        folder: The folder of the grouped photos.
        names: New names by the id of the person; an empty name deletes the name.
        moves: Corrections: photo, face, and the id or name of the person.

    Raises:
        DatasetError: If an id is not the id of a person, or a file is damaged.
    """
    rows = {number: [name, photos, faces] for number, name, photos, faces in _read_people(folder)}
    for text, name in names.items():
        number = person_number(text)
        if number is None or number not in rows:
            raise DatasetError(
                f"{text!r} is not one of the people", where=folder / PEOPLE_CSV, remedy="reload the page"
            )
        rows[number][0] = " ".join(name.split())
    write_names(folder, ((number, *row) for number, row in rows.items()))  # type: ignore[misc]
    write_corrections(folder, [*read_corrections(folder), *(Correction(*move) for move in moves)])


def _read_people(folder: Path) -> Iterator[tuple[int, str, int, int]]:
    for where, row in _read(folder / PEOPLE_CSV, ("person", "name", "photos", "faces")):
        number = person_number(row["person"])
        if number is None or not (_is_count(row["photos"]) and _is_count(row["faces"])):
            raise DatasetError("is not a line of a person", where=where, remedy="run sfplus group again")
        yield number, row["name"], int(row["photos"]), int(row["faces"])
