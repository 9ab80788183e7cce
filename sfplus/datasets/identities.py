"""The people of a data set: class labels from folders, and lists of people."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from sfplus.datasets.records import person_from_path
from sfplus.errors import DatasetError


def assign_labels(photos: Sequence[str], exclude: Collection[str] = ()) -> tuple[list[str], list[int], list[str]]:
    """Number the people of a set of photos, sorted by name and counted from 0.

    Args:
        photos: paths relative to the root of the set, `person/photo.jpg`; the folder of a photo is its person.
        exclude: people to leave out; names that do not occur are ignored, since many copies of a data set are cleaned
            already.

    Returns:
        The people; the label of each remaining photo; and the path of each remaining photo, sorted by label and path.

    Raises:
        DatasetError: If a photo is not in a person's folder, or fewer than two people remain.

    Source: SphereFace, train/code/get_list.m.
    """
    by_person: dict[str, list[str]] = {}
    for photo in photos:
        by_person.setdefault(person_from_path(photo, DatasetError), []).append(photo)
    people = sorted(person for person in by_person if person not in exclude)
    if len(people) < 2:
        reason = f"contains photos of {len(people)} {'person' if len(people) == 1 else 'people'}"
        raise DatasetError(reason, where="train.photos", remedy="training needs at least two people")
    labelled = [(label, photo) for label, person in enumerate(people) for photo in sorted(by_person[person])]
    return people, [label for label, _ in labelled], [photo for _, photo in labelled]


def read_person_list(path: Path) -> tuple[str, ...]:
    """Read a list of people: UTF-8 text with one name per line, without empty lines, comments and duplicates.

    A comment is `#` alone or starts with `#` and a space, so `#1 Fan` is a person.

    Raises:
        DatasetError: If the file cannot be read or is not text.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give a text file with one name per line"
        raise DatasetError(f"is not a list of people ({error})", where=path, remedy=remedy) from error
    names = (line.strip() for line in lines)
    return tuple(dict.fromkeys(name for name in names if name and name != "#" and not name.startswith("# ")))
