"""Identity folders: a folder per person, its photos inside."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from sfplus.errors import DatasetError


def identities(photos: Sequence[str], exclude: Collection[str] = ()) -> tuple[list[str], list[int], list[str]]:
    """Number the people of a set of photos, as get_list.m of SphereFace did: folders in sorted order, 0-based.

    Args:
        photos: names relative to the root of the set, `person/photo.jpg`; the folder of a photo is its person.
        exclude: people to leave out; names that are not there are no error, since many copies are cleaned already.

    Returns:
        The people, and for each photo that stays its label and its name.

    Raises:
        DatasetError: a photo lies outside any person's folder, or fewer than two people are left.
    """
    by_person: dict[str, list[str]] = {}
    for photo in photos:
        person = PurePosixPath(photo).parent.as_posix()
        if person == ".":
            raise DatasetError("is in no person's folder", where=photo, remedy="give each person a folder of photos")
        by_person.setdefault(person, []).append(photo)
    people = sorted(person for person in by_person if person not in exclude)
    if len(people) < 2:
        raise DatasetError(
            f"{len(people)} person to tell apart",
            where="train.photos",
            remedy="training needs folders of at least two people",
        )
    names = [(label, photo) for label, person in enumerate(people) for photo in sorted(by_person[person])]
    return people, [label for label, _ in names], [photo for _, photo in names]


def read_people(path: Path) -> tuple[str, ...]:
    """Read a list of people: UTF-8, one a line; empty lines and remarks are left out.

    A remark is `#` alone, or begins with `#` and a space: `#1 Fan` is a person.

    Raises:
        DatasetError: the file cannot be read or is no text.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"is no list of people ({error})", where=path, remedy="give text, one name a line"
        ) from error
    names = (line.strip() for line in lines)
    return tuple(dict.fromkeys(name for name in names if name and name != "#" and not name.startswith("# ")))
