"""The page of the people of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.names import Correction, person_id
from sfplus.people.people_list import People
from sfplus.reports.people_page import (
    DOUBTFUL,
    FACES,
    ONCE,
    PEOPLE,
    TOGETHER,
    FaceView,
    PeopleTable,
    PeopleTotals,
    PersonView,
    PhotoView,
    photo_link,
    render_people,
)

_DOUBTFUL_BELOW = 0.5  # confidence


def draw_gallery(
    grouped: GroupedPhotos,
    people: People,
    corrections: Sequence[Correction],
    *,
    save_url: str = "",
    token: str = "",
    tabs: Sequence[tuple[str, str]] = (),
    link: Callable[[str], str] | None = None,
) -> str:
    """Return the page of the people of a folder as HTML.

    Args:
        grouped: The grouped faces.
        people: The people, in order.
        corrections: Earlier corrections of the user's.
        save_url: The URL that takes changes, if the page is served (see `render_people`).
        token: The token of such a page.
        tabs: The other pages of the server (see `render_people`).
        link: Returns the URL of a photo; by default that of its file.
    """
    views = _Views(grouped, people, link)
    order = np.argsort(people.index, kind="stable")  # the faces of each person are consecutive
    starts = np.searchsorted(people.index[order], np.arange(len(people.numbers)))
    several = int((people.photos > 1).sum())
    once = np.flatnonzero(people.photos == 1)
    people_views = [
        views.person(person, order[starts[person] : starts[person] + min(FACES, people.faces[person])])
        for person in [*range(min(several, PEOPLE)), *once[:ONCE].tolist()]
    ]
    confidence = np.array([np.nan if value is None else value for value in grouped.table["confidence"]], np.float64)
    doubtful = np.flatnonzero(confidence < _DOUBTFUL_BELOW)
    shared = np.flatnonzero(views.people_in_photo > 1)
    photos = shared[np.argsort(-views.people_in_photo[shared], kind="stable")]
    ids = [person_id(number) for number in people.numbers.tolist()]
    rows = list(zip(ids, people.names, people.photos.tolist(), people.faces.tolist(), strict=True))
    totals = PeopleTotals(
        photos=len(views.people_in_photo) + grouped.counts["undetected"],
        faces=len(people.index),
        people=several,
        once=len(once),
        faceless=grouped.counts["undetected"],
        failed=grouped.counts["failed"],
        doubtful=len(doubtful),
        together=len(shared),
    )
    return render_people(
        f"People in {grouped.photos.name or grouped.photos}",
        people_views,
        totals,
        PeopleTable(rows, corrections),
        doubtful=[views.face(row) for row in doubtful[np.argsort(confidence[doubtful])][:DOUBTFUL].tolist()],
        together=[views.photo(photo) for photo in photos[:TOGETHER].tolist()],
        folder=str(grouped.folder),
        save_url=save_url,
        token=token,
        tabs=tabs,
    )


class _Views:
    """Rows of the table as faces, people and photos of the page.

    Attributes:
        people_in_photo: int64, the number of people in each photo.
    """

    def __init__(self, grouped: GroupedPhotos, people: People, link: Callable[[str], str] | None) -> None:
        self._grouped, self._people = grouped, people
        self._link = link or self._file_link
        pairs = np.unique(np.stack([people.photo_index, people.index], 1), axis=0)
        self.people_in_photo = np.bincount(pairs[:, 0])

    def face(self, row: int) -> FaceView:
        table, people = self._grouped.table, self._people
        face = table["face"][row]
        return FaceView(
            photo=table["photo"][row],
            face=-1 if face is None else face,
            crop=self._grouped.folder / table["crop"][row],
            link=self._link(table["photo"][row]),
            confidence=table["confidence"][row],
            others=int(self.people_in_photo[people.photo_index[row]]) - 1,
            person=person_id(int(people.numbers[people.index[row]])),
        )

    def person(self, person: int, rows: Iterable[int]) -> PersonView:
        people, faces = self._people, [self.face(int(row)) for row in rows]
        return PersonView(
            person=person_id(int(people.numbers[person])),
            name=people.names[person],
            photos=int(people.photos[person]),
            faces=faces,
            more=int(people.faces[person]) - len(faces),
        )

    def photo(self, photo: int) -> PhotoView:
        rows = np.flatnonzero(self._people.photo_index == photo)
        name = self._grouped.table["photo"][rows[0]]
        return PhotoView(name, self._link(name), [self.face(int(row)) for row in rows])

    def _file_link(self, photo: str) -> str:
        return photo_link((self._grouped.photos / photo).resolve(), self._grouped.folder.resolve())
