"""Identity folders: one folder per person, with the photos inside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sfplus.datasets.identities import describe_folders, describe_stray
from sfplus.datasets.records import PeopleRule, PhotoCollection, Record, person_from_path
from sfplus.errors import PhotoError
from sfplus.images import list_left_out, list_photos, system_name
from sfplus.io.console import quantity


class IdentityFolders(PhotoCollection):
    """A folder per person, in the order of `assign_labels`.

    Args:
        root: folder that contains the folders.
        photos: names of all photos relative to it, at least one.
        people: which of nested folders is the person, see `person_from_path`.
    """

    kind = "folders"
    accepts = "a folder per person"
    priority = 4  # any folder with photos is accepted, so all other formats are tried before

    def __init__(self, root: Path, photos: list[str], people: PeopleRule = "path") -> None:
        self.root, self._people = root, people
        by_person = [(person_from_path(name, people=people) if "/" in name else "", name) for name in photos]
        self._names = [name for _, name in sorted(by_person)]
        self.summary, nested = describe_folders(self._names, people, "--people ")
        stray = describe_stray(self._names)
        used = {name.split("/")[0] for name in photos}
        folders = (entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        empty = sorted(name for name in folders if name not in used and not system_name([name]))
        texts = (
            "folder contains no photo and is not counted as a person",
            "folders contain no photo and are not counted as people",
        )
        without = f"{quantity(len(empty), *texts)}, for example {empty[0]}" if empty else ""
        warnings = (without, stray and f"{stray}; they are left out", nested)
        self.warnings = [*filter(None, warnings), *list_left_out(root).warnings(root)]

    def with_people(self, people: PeopleRule) -> IdentityFolders:
        """Return the same photos with another rule for people in nested folders."""
        return self if people == self._people else IdentityFolders(self.root, self._names, people)

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
                yield Record(name, person_from_path(name, people=self._people), self.root / name)
            except PhotoError as error:
                yield Record(name, "", error)


FORMAT = IdentityFolders
