"""The people of a grouped folder, without a server: the gallery, names and corrections, photos, and search."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.app.uploads import UploadReader
from sfplus.errors import PhotoError, UsageError
from sfplus.images import encode_image, shrink
from sfplus.people.gallery import draw_gallery
from sfplus.people.grouped_photos import PEOPLE_PARQUET, GroupedPhotos
from sfplus.people.names import person_number, save_changes
from sfplus.people.people_list import People
from sfplus.people.regroup import regroup
from sfplus.people.search import search_faces
from sfplus.reports.people_page import FaceView, render_match_list

PHOTOS = "photos/"  # address of a photo: this and its digest
_SIDE, _QUALITY = 1600, 85  # of a displayed photo: pixels of the longer side, and JPEG quality
_LISTED, _MATCHES = 24, 200  # photos listed at least and at most
_MAX_NAME = 200  # characters


class PeopleFolder:
    """The result of `sfplus group`; threads may share it.

    A folder that `sfplus group` changes meanwhile is loaded again.

    Args:
        folder: the folder, OUT of `sfplus group`.
        reader: decodes photos.

    Raises:
        UsageError: If the folder is not such a result.
        ArtefactError: If a file in it is missing or damaged.
    """

    def __init__(self, folder: Path, reader: UploadReader) -> None:
        self._folder, self._reader = folder, reader
        self._lock = threading.RLock()
        self._load()

    def _load(self) -> None:
        self._state = self._current_state()
        self._grouped = GroupedPhotos.load(self._folder)
        self._pages: dict[Any, str] = {}
        table = self._grouped.table
        self._photos = {
            digest: photo for digest, photo in zip(table["digest"], table["photo"], strict=True) if _is_inside(photo)
        }
        self._addresses = {photo: f"{PHOTOS}{digest}" for digest, photo in self._photos.items()}

    def _current_state(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):  # loading says what is missing
            status = (self._folder / PEOPLE_PARQUET).stat()
            return status.st_mtime_ns, status.st_size
        return 0, 0

    @property
    def grouped(self) -> GroupedPhotos:
        """The current faces and people."""
        with self._lock:
            if self._state != self._current_state():
                self._load()
            return self._grouped

    def page(self, save_url: str, token: str, tabs: Sequence[tuple[str, str]]) -> str:
        """Return the gallery, which saves changes on this server (see `render_people`)."""
        with self._lock:
            grouped, key = self.grouped, (save_url, token, *tabs)
            if key not in self._pages:
                self._pages[key] = draw_gallery(
                    grouped, People.of(grouped), (),
                    save_url=save_url, token=token, tabs=tabs, link=self._address,
                )  # fmt: skip
            return self._pages[key]

    def _address(self, photo: str) -> str:
        return self._addresses.get(photo, "")

    def photo(self, digest: str) -> bytes | None:
        """Return a photo of the folder as a JPEG of at most 1600 pixels; None if the folder has no such photo.

        Raises:
            PhotoError: If it cannot be read.
        """
        with self._lock:
            name, folder = self._photos.get(digest), self.grouped.photos
        if name is None:
            return None
        path = folder / name
        if not path.is_file():
            raise PhotoError("there is no such file any more", where=name, remedy="run sfplus group again")
        return encode_image(shrink(self._reader.read(path.read_bytes(), path.name), _SIDE), ".jpg", _QUALITY)

    def save(self, names: Mapping[str, str], moves: Sequence[tuple[str, int, str]]) -> None:
        """Write names and moved faces to `people.csv` and `corrections.csv`, and apply them.

        Args:
            names: names by the id of the person; "" for none.
            moves: photo, face, and the id or name of its person, "" for somebody else.

        Raises:
            UsageError: If there is no such person, photo or face, or a name is not one.
        """
        with self._lock:
            table = self.grouped.table
            people, faces = set(table["person"]), set(zip(table["photo"], table["face"], strict=True))
            for text in (*names.values(), *(person for _, _, person in moves)):
                if len(text) > _MAX_NAME or not text.isprintable():
                    raise UsageError("is too long or not printable", where=text[:40], remedy="use another name")
            for person in (*names, *(person for _, _, person in moves if person_number(person) is not None)):
                if person not in people:
                    raise UsageError("there is no such person", where=person, remedy="reload the page")
            for photo, face, _ in moves:
                if (photo, face) not in faces:
                    raise UsageError(f"has no face {face}", where=photo, remedy="reload the page")
            save_changes(self._folder, names, moves)
            regroup(self._folder)
            self._load()

    def search(self, feature: NDArray[np.float32]) -> str:
        """Return the photos of the person with a feature, best first, as HTML.

        Args:
            feature: (D,) float32.
        """
        grouped = self.grouped
        table = grouped.table
        photos = table["photo"]
        matches = search_faces(feature, grouped.features, grouped.rule).best_by_photo(photos, _LISTED).first(_MATCHES)
        best = []
        for row, similarity, probability in matches:
            face, is_rated = table["face"][row], matches.has_probabilities
            best.append(FaceView(
                photos[row], -1 if face is None else face, grouped.folder / table["crop"][row],
                self._address(photos[row]), probability if is_rated else None, similarity=similarity,
            ))  # fmt: skip
        return render_match_list(best, more=len(set(photos)) - len(best))


def _is_inside(photo: str) -> bool:
    """Return whether the name of a photo is in the folder of photos, and not hidden."""
    path = PurePosixPath(photo)
    return not path.is_absolute() and "\0" not in photo and not any(part.startswith(".") for part in path.parts)
