"""The pages of `sfplus group` and `sfplus find`: self-contained HTML with crops, which needs no network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sfplus.reports.face_pages import render_page, script_json

PEOPLE, FACES, ONCE, DOUBTFUL, TOGETHER = 300, 12, 300, 60, 60  # people, faces of each, and so on: sensible limits


@dataclass(frozen=True)
class FaceView:
    """A face on a page.

    Attributes:
        photo: name of the photo, relative to the folder of photos.
        face: 0-based number of the face in the photo; -1 if unknown, and then the face cannot be moved.
        crop: file of the aligned crop; a page can do without it.
        link: relative or file URL of the photo (see `photo_link`); "" for none.
        confidence: probability that this is a face of its person, 0 to 1; None if the model is not calibrated.
        others: number of other people in the photo.
        person: id of its person; needed only for doubtful faces and photos with several people.
        similarity: cosine similarity with the examples, shown for matches without a probability.
    """

    photo: str
    face: int
    crop: Path
    link: str = ""
    confidence: float | None = None
    others: int = 0
    person: str = ""
    similarity: float | None = None


@dataclass(frozen=True)
class PersonView:
    """A person on the page.

    Attributes:
        person: id, such as `person-00012`.
        name: name given by the user, or "".
        photos: number of photos of the person.
        faces: the faces to show, the first ones of the person.
        more: number of faces that are not shown.
        link: relative or file URL of the folder with the photos of the person; "" for none.
    """

    person: str
    name: str
    photos: int
    faces: Sequence[FaceView]
    more: int = 0
    link: str = ""


@dataclass(frozen=True)
class PhotoView:
    """A photo with several people.

    Attributes:
        photo: name of the photo, relative to the folder of photos.
        link: relative or file URL of the photo; "" for none.
        faces: its faces, which name their persons.
    """

    photo: str
    link: str
    faces: Sequence[FaceView]


@dataclass(frozen=True)
class PeopleTotals:
    """Numbers of a grouped folder, from which the page computes what it does not show.

    Attributes:
        photos: photos read.
        faces: faces in them.
        people: people with at least two photos.
        once: people seen in one photo only.
        faceless: photos without a face.
        failed: photos that could not be read.
        doubtful: faces with a low confidence.
        together: photos with several people.
    """

    photos: int
    faces: int
    people: int
    once: int
    faceless: int = 0
    failed: int = 0
    doubtful: int = 0
    together: int = 0


@dataclass(frozen=True)
class PeopleTable:
    """All rows of the files that the page can write; it shows only some of them.

    Attributes:
        people: `person`, `name`, `photos` and `faces` of all people, as in people.csv.
        corrections: `photo`, `face` and `person` of earlier corrections, as in corrections.csv.
    """

    people: Sequence[tuple[str, str, int, int]]
    corrections: Sequence[tuple[str, int, str]] = ()


def render_people(
    title: str,
    people: Sequence[PersonView],
    totals: PeopleTotals,
    table: PeopleTable,
    *,
    doubtful: Sequence[FaceView] = (),
    together: Sequence[PhotoView] = (),
    folder: str = "",
    save_url: str = "",
    token: str = "",
    tabs: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page of the people of a folder, in which names can be typed and faces moved to other people.

    Without `save_url`, the page offers the changed files as downloads. With it, the page posts
    `{"names": {id: name}, "moves": [[photo, face, person], ...]}` as JSON, with the header `X-Sfplus-Token`, and
    reloads itself; the text of an error answer is shown. `person` of a move is an id, a new name, or "" for somebody
    else.

    Args:
        title: heading of the page.
        people: people to show: first those with at least two photos, by number of photos, then those seen once. The
            page grows by about 3 kB for each face; `PEOPLE`, `FACES` and `ONCE` are sensible limits.
        totals: numbers of the whole folder.
        table: all people and earlier corrections.
        doubtful: faces with a low confidence, lowest first; at most `DOUBTFUL` of them.
        together: photos with several people; at most `TOGETHER` of them.
        folder: folder of the page, named in the instructions.
        save_url: URL that takes changes; it must be on the server of the page.
        token: value of the header `X-Sfplus-Token`.
        tabs: address and label of each page of the server; the address of this page is "".

    Returns:
        The page, to be written as UTF-8.
    """
    faces = [face for photo in together for face in photo.faces] + list(doubtful)
    faces += [replace(face, person=person.person) for person in people for face in person.faces]
    movable = {(face.photo, face.face): face.person for face in faces if face.face >= 0}
    data = _page_data(people, table, movable, save_url, token)
    return render_page(
        "people.html.jinja",
        "people.js",
        title=title,
        people=[person for person in people if person.photos > 1],
        once=[person for person in people if person.photos <= 1],
        doubtful=doubtful,
        together=together,
        totals=totals,
        folder=folder,
        save_url=save_url,
        numbers={person: number for number, person in enumerate(data["ids"])},
        names={person: data["names"].get(number, person) for number, person in enumerate(data["ids"])},
        face_numbers={face: number for number, face in enumerate(movable)},
        data=script_json(data),
        tabs=tabs,
    )


def render_matches(
    title: str, examples: Sequence[FaceView], matches: Sequence[FaceView], *, more: int = 0, note: str = ""
) -> str:
    """Return the page of the photos in which a person was searched.

    Args:
        title: heading of the page.
        examples: the faces that were searched.
        matches: the most similar face of each photo, best first. The page grows by about 3 kB for each.
        more: number of photos that are not shown.
        note: a sentence below the title, e.g. which model decided.

    Returns:
        The page, to be written as UTF-8.
    """
    return render_page(
        "matches.html.jinja", title=title, examples=examples, note=note, **_match_list(matches, len(examples), more)
    )


def render_match_list(matches: Sequence[FaceView], *, examples: int = 1, more: int = 0) -> str:
    """Return the part of such a page with the matches, as HTML to put into another page.

    Args:
        matches: as in `render_matches`.
        examples: number of faces that were searched.
        more: as in `render_matches`.
    """
    return render_page("match_list.html.jinja", **_match_list(matches, examples, more))


def _match_list(matches: Sequence[FaceView], examples: int, more: int) -> dict[str, Any]:
    likely = [face for face in matches if face.confidence is None or face.confidence >= 0.5]
    return {
        "likely": likely,
        "unlikely": matches[len(likely) :],
        "is_calibrated": any(face.confidence is not None for face in matches),
        "several": examples > 1,
        "more": more,
    }


def photo_link(photo: Path, folder: Path) -> str:
    """Return the URL of a photo for a page in a folder: relative where possible, so that both can be moved together.

    Args:
        photo: the photo.
        folder: the folder of the page.

    Returns:
        A quoted URL; bytes of the name that are not UTF-8 are kept.
    """
    try:
        return quote(os.fsencode(Path(os.path.relpath(photo, folder)).as_posix()))
    except ValueError:  # another drive of Windows
        return photo.absolute().as_uri()


def _page_data(
    people: Sequence[PersonView], table: PeopleTable, faces: Mapping[tuple[str, int], str], save_url: str, token: str
) -> dict[str, Any]:
    """Return what the script of the page needs; people are numbered by their row."""
    rows = {view.person: (view.name, view.photos, len(view.faces) + view.more) for view in people}
    for person, name, photos, count in table.people:
        if name or person in rows or not save_url:  # the server writes the files itself
            rows[person] = (name, photos, count)
    for person in filter(None, faces.values()):
        rows.setdefault(person, ("", 1, 1))
    numbers = {person: number for number, person in enumerate(rows)}
    return {
        "ids": list(rows),
        "names": {numbers[person]: name for person, (name, _, _) in rows.items() if name},
        "photos": [photos for _, photos, _ in rows.values()],
        "faces": [count for _, _, count in rows.values()],
        "shown": [(photo, face, numbers.get(person)) for (photo, face), person in faces.items()],
        "corrections": [] if save_url else list(table.corrections),
        "save": save_url,
        "token": token,
    }
