"""Identity folders: one folder per person, with the photos inside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sfplus.datasets.records import PhotoCollection, Record, person_from_path
from sfplus.errors import PhotoError
from sfplus.images import list_photos
from sfplus.io.console import quantity


class IdentityFolders(PhotoCollection):
    """A folder per person, in the order of `assign_labels`.

    Args:
        root: folder that contains the folders.
        photos: names of all photos relative to it, at least one.
    """

    kind = "folders"
    accepts = "a folder per person"
    priority = 4  # any folder with photos is accepted, so all other formats are tried before

    def __init__(self, root: Path, photos: list[str]) -> None:
        self.root = root
        by_person = [(Path(name).parent.as_posix(), name) for name in photos]
        self._names = [name for _, name in sorted(by_person)]
        used = {person.split("/")[0] for person, _ in by_person}
        empty = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and entry.name not in used and entry.name[0] != "."
        )
        if empty:
            one, several = (
                "folder contains no photo and is not counted as a person",
                "folders contain no photo and are not counted as people",
            )
            self.warnings = (f"{quantity(len(empty), one, several)}, for example {empty[0]}",)

    @classmethod
    def open(cls, path: Path, split: str) -> IdentityFolders | None:
        """Open a folder that contains photos."""
        photos = list_photos(path) if path.is_dir() else []
        return cls(path, photos) if photos else None

    def files(self) -> list[Path]:
        """Return the paths of the photos."""
        return [self.root / name for name in self._names]

    def __len__(self) -> int:
        return len(self._names)

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the photos from number `start` on; a photo outside any person's folder is an error."""
        for name in islice(self._names, start, None):
            try:
                yield Record(name, person_from_path(name), self.root / name)
            except PhotoError as error:
                yield Record(name, "", error)


FORMAT = IdentityFolders
