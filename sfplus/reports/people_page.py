"""The pages of `sfplus group` and `sfplus find`: self-contained HTML with crops, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from markupsafe import Markup
from PIL import Image

from sfplus.errors import PhotoError
from sfplus.images import encode_image, read_photo
from sfplus.reports.jinja_filters import data_uri, page_templates

PEOPLE, FACES, ONCE, DOUBTFUL, TOGETHER = 300, 12, 300, 60, 60  # rows of each kind that a page should show at most
_HEIGHT, _QUALITY = 88, 80  # pixels and JPEG quality of a crop


@dataclass(frozen=True)
class FaceView:
    """A face on a page.

    Attributes:
        photo: name of the photo, relative to the folder of photos.
        face: 0-based number of the face in the photo.
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

    Returns:
        The page, to be written as UTF-8.
    """
    shown = {(face.photo, face.face): person.person for person in people for face in person.faces}
    shown = {(face.photo, face.face): face.person for face in doubtful if face.person} | shown
    data = _page_data(people, table, [(*face, person) for face, person in shown.items()], save_url, token)
    return _render(
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
        names={person: data["names"].get(number) or person for number, person in enumerate(data["ids"])},
        face_numbers={face: number for number, face in enumerate(shown)},
        data=_script_json(data),
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
    likely = [face for face in matches if face.confidence is None or face.confidence >= 0.5]
    return _render(
        "matches.html.jinja",
        title=title,
        examples=examples,
        likely=likely,
        unlikely=matches[len(likely) :],
        more=more,
        note=note,
    )


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


class _Crops:
    """Thumbnails of crops, each read once."""

    def __init__(self) -> None:
        self._tags: dict[Path, Markup] = {}

    def tag(self, face: FaceView) -> Markup:
        """Return the `img` element of a face, or an empty frame if its crop is missing or damaged."""
        if face.crop not in self._tags:
            self._tags[face.crop] = _image(face.crop)
        return self._tags[face.crop]


def _image(crop: Path) -> Markup:
    """Return `src`, `width` and `height` of a crop as attributes; none if it cannot be read."""
    try:
        image = Image.fromarray(read_photo(crop))
    except PhotoError:  # deleted since
        return Markup("")
    width = max(1, round(image.width * _HEIGHT / image.height))
    small = np.asarray(image.resize((width, _HEIGHT), Image.Resampling.LANCZOS, reducing_gap=3))
    uri = data_uri(encode_image(small, ".jpg", _QUALITY))
    return Markup('src="{}" width="{}" height="{}"').format(uri, width, _HEIGHT)


def _page_data(
    people: Sequence[PersonView], table: PeopleTable, faces: Iterable[tuple[str, int, str]], save_url: str, token: str
) -> dict[str, Any]:
    """Return what the script of the page needs; people are numbered by their row."""
    rows = {person: (name, photos, count) for person, name, photos, count in table.people}
    shown = {view.person: (view.name, view.photos, len(view.faces) + view.more) for view in people}
    if save_url:  # the server writes the files
        rows = {person: row for person, row in rows.items() if row[0] or person in shown}
    rows = shown | rows if not rows.keys() >= shown.keys() else rows
    numbers = {person: number for number, person in enumerate(rows)}
    return {
        "ids": list(rows),
        "names": {numbers[person]: name for person, (name, _, _) in rows.items() if name},
        "photos": [photos for _, photos, _ in rows.values()],
        "faces": [count for _, _, count in rows.values()],
        "shown": [(photo, face, numbers[person]) for photo, face, person in faces],
        "corrections": [] if save_url else list(table.corrections),
        "save": save_url,
        "token": token,
    }


def _safe_link(link: str) -> str:
    """Return a link if it is relative or of a file or page, else ""; a link must not run a script."""
    try:
        return link if urlsplit(link).scheme in ("", "file", "http", "https") else ""
    except ValueError:
        return ""


def _script_json(data: Mapping[str, Any]) -> Markup:
    """Return JSON that cannot end the `script` element around it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII, so that U+2028 is escaped
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _render(template: str, script: str = "", **context: Any) -> str:
    """Render a template; only the given script may run in the page."""
    folder = Path(__file__).parent
    text = (folder / script).read_text("utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "base-uri": "'none'"}
    policy |= {"form-action": "'none'"}
    if script:
        policy["script-src"] = f"'sha256-{digest}'"
    if context.get("save_url"):
        policy["connect-src"] = "'self'"
    security = Markup("; ".join(f"{key} {value}" for key, value in policy.items()))
    tools = {"crop": _Crops().tag, "safe_link": _safe_link, "chance": _chance, "count": _count}
    environment = page_templates()
    return environment.get_template(template).render(context | tools | {"security": security, "script": Markup(text)})


def _count(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun, e.g. "1 photo" or "1,200 photos"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _chance(probability: float) -> str:
    """Format a probability in whole per cent, so that none is rounded to certainty or across one half."""
    if probability > 0.995 or probability < 0.005:
        return "over 99 %" if probability > 0.5 else "under 1 %"
    rounded = round(100 * probability)
    return f"{max(50, rounded) if probability >= 0.5 else min(49, rounded)} %"
