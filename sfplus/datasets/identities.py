"""The people of a data set: class labels from folders, and lists of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from sfplus.datasets.records import PeopleRule, person_from_path
from sfplus.errors import DatasetError, one_line, short_repr
from sfplus.io.console import first_names, quantity
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit

_STRAY_REMEDY = "put the photos of each person into a folder"
_LIST_SUFFIXES = (".txt", ".lst", ".csv")


def assign_labels(
    photos: Sequence[str], exclude: Collection[str] = (), people: PeopleRule = "path"
) -> tuple[list[str], list[int], list[str]]:
    """Number the people of a set of photos, sorted by name and counted from 0.

    Args:
        photos: paths relative to the root of the set, `person/photo.jpg`; the folder of a photo is its person.
        exclude: people to leave out; names that do not occur are ignored, since many copies of a data set are cleaned
            already.
        people: which of nested folders is the person, see `person_from_path`.

    Returns:
        The people; the label of each remaining photo; and the path of each remaining photo, sorted by label and path.

    Raises:
        DatasetError: If a photo is not in a person's folder, or fewer than two people remain.

    Source: SphereFace, train/code/get_list.m.
    """
    by_person: dict[str, list[str]] = {}
    for photo in photos:
        by_person.setdefault(person_from_path(photo, DatasetError, people), []).append(photo)
    kept = sorted(person for person in by_person if person not in exclude)
    if len(kept) < 2:
        reason = f"contains photos of {quantity(len(kept), 'person', 'people')}"
        raise DatasetError(reason, where="train.photos", remedy="training needs at least two people")
    labelled = [(label, photo) for label, person in enumerate(kept) for photo in sorted(by_person[person])]
    return kept, [label for label, _ in labelled], [photo for _, photo in labelled]


def describe_people(photos: Sequence[str], root: Path, people: PeopleRule = "path", least: int = 1) -> tuple[str, str]:
    """Describe the people of a folder before anything is done with their photos.

    Args:
        photos: paths relative to the folder.
        root: the folder, for messages.
        people: which of nested folders is the person, see `person_from_path`.
        least: the number of photos that at least one person must have.

    Returns:
        A line such as `24 photos of 6 people`, and a warning if nested folders may make several people of one; else an
        empty text.

    Raises:
        DatasetError: If photos are in no person's folder; the first three are named. If there is only one person, or
            nobody with so many photos.
    """
    if stray := describe_stray(photos):
        raise DatasetError(stray, where=root, remedy=_STRAY_REMEDY)
    persons = Counter(person_from_path(photo, DatasetError, people) for photo in photos)
    if len(persons) == 1:
        remedy = "training and identification need at least two people"
        raise DatasetError("contains photos of 1 person", where=root, remedy=remedy)
    if max(persons.values(), default=least) < least:
        reason = f"no person has more than {quantity(least - 1, 'photo')}"
        raise DatasetError(reason, where=root, remedy="give folders of people with several photos each")
    return describe_folders(photos, people, "people=")


def describe_folders(photos: Sequence[str], people: PeopleRule, option: str) -> tuple[str, str]:
    """Describe the people of a folder, without photos that are in no person's folder.

    Args:
        photos: paths relative to the folder.
        people: which of nested folders is the person, see `person_from_path`.
        option: what the user writes in front of another rule: `people=` or `--people `.

    Returns:
        A line and a warning, as those of `describe_people`.
    """
    kept = [photo for photo in photos if "/" in photo]
    persons = sorted({person_from_path(photo, DatasetError, people) for photo in kept})
    line = f"{quantity(len(kept), 'photo')} of {quantity(len(persons), 'person', 'people')}"
    first, last = ({person.split("/")[part] for person in persons} for part in (0, -1))
    if min(len(first), len(last)) == len(persons):
        return line, ""
    nested = first_names([person for person in persons if "/" in person])
    choice = f"{option}first-folder ({len(first)}) or {option}last-folder ({len(last)})"
    return line, f"each of these folders counts as a person: {nested}; if that is wrong, set {choice}"


def describe_stray(photos: Sequence[str]) -> str:
    """Name the first photos that are in no person's folder; an empty text if there is none."""
    stray = [photo for photo in photos if "/" not in photo]
    return f"these photos are in no person's folder: {first_names(stray)}" if stray else ""


def read_person_list(path: Path) -> tuple[str, ...]:
    """Read a list of people: UTF-8 text with one name per line, without empty lines, comments and duplicates.

    A comment is `#` alone or starts with `#` and a space, so `#1 Fan` is a person.

    Raises:
        DatasetError: If the name of the file does not end in .txt, .lst or .csv, or it cannot be read, is too large or
            is not text.
    """
    if path.suffix.lower() not in _LIST_SUFFIXES:  # any other text, such as /etc/passwd, would be taken as people
        remedy = f"end its name in {', '.join(_LIST_SUFFIXES)}"
        raise DatasetError("is not the name of a list of people", where=path, remedy=remedy)
    try:
        check_limit("text_bytes", file_size(path), path, error=DatasetError)
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give a text file with one name per line"
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"is not a list of people ({reason})", where=path, remedy=remedy) from error
    if wrong := next((line for line in lines if one_line(line.strip()) != line.strip()), ""):
        reason = f"is not a list of people (a line is {short_repr(wrong)})"
        raise DatasetError(reason, where=path, remedy="give a text file with one name per line")
    names = (line.strip() for line in lines)
    return tuple(dict.fromkeys(name for name in names if name and name != "#" and not name.startswith("# ")))


def is_listable(person: str) -> bool:
    """Return True if `read_person_list` reads a line with this name as the same name."""
    return person.isprintable() and person == person.strip() not in ("", "#") and not person.startswith("# ")
