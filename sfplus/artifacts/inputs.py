"""What a stage can read: artefacts, folders of photos and single files, each with a digest of its content."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sfplus.datasets.formats.pack import read_manifest
from sfplus.errors import DatasetError, PhotoError, WeightsError
from sfplus.images import list_photos
from sfplus.io.files import digest_json, file_digest, write_atomically
from sfplus.weights import CONFIG, HEAD, MODEL

_FRESH_NS = 2_000_000_000  # a file changed this recently may change again within one tick of its clock


class Source(Protocol):
    """An input of a stage."""

    @property
    def content(self) -> str:
        """Digest of all that the stage could read from it."""

    def describe(self) -> str:
        """For people: what it is and how much."""


class PhotoFolder:
    """A folder of photos; its content is the names and bytes of the photos in it.

    Args:
        root: the folder.
        index: a file that remembers digests by size and time of change, so that a second look reads no photo.
    """

    def __init__(self, root: Path, index: Path) -> None:
        self.root = root
        self._index = index

    @cached_property
    def photos(self) -> list[str]:
        """The photos, sorted, as paths relative to `root`.

        Raises:
            DatasetError: there is no such folder, or no photo in it.
        """
        photos = list_photos(self.root)
        if not photos:
            raise DatasetError("there is no photo in this folder", where=self.root, remedy="check the path")
        return photos

    @cached_property
    def content(self) -> str:
        """SHA-256 over names and bytes; photos that cannot be read count by their name."""
        known = _read_index(self._index)
        now = time.time_ns()
        entries: dict[str, list[Any]] = {}
        todo = []
        for name in self.photos:
            stamp = _stamp(self.root / name)
            if name in known and known[name][:3] == stamp:
                entries[name] = known[name]
            else:
                entries[name] = [*stamp, ""]
                todo.append(name)
        with ThreadPoolExecutor(4) as pool:
            for name, digest in zip(
                todo, pool.map(lambda name: _digest_or_reason(self.root / name), todo), strict=True
            ):
                entries[name][3] = digest
        settled = {name: entry for name, entry in entries.items() if now - entry[1] > _FRESH_NS}
        if settled != known:
            self._index.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._index, json.dumps(settled).encode())
        return digest_json([[name, entries[name][3]] for name in self.photos])

    def describe(self) -> str:
        """The folder and the number of photos."""
        return f"{self.root}, {len(self.photos)} photos"


class PackFolder:
    """A pack of crops, see `datasets.packed`; its pixels count by the digests that its manifest has."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def content(self) -> str:
        """SHA-256 over the digests of blocks and tables.

        Raises:
            DatasetError: there is no finished pack in this folder, or it was changed.
        """
        return str(read_manifest(self.root)["content"])

    def describe(self) -> str:
        """The folder and the number of crops."""
        return f"{self.root}, a pack of {read_manifest(self.root)['crops']} crops"


class InputFile:
    """A file of the user's, or several that are read as one.

    Args:
        path: what the stage is given.
        files: all that is read for it; default: the path itself.
    """

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        self.path, self._files = path, files or (path,)

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes; of several files over theirs.

        Raises:
            DatasetError: it is missing or unreadable.
        """
        try:
            digests = [file_digest(file) for file in self._files]
        except OSError as error:
            raise DatasetError(
                f"cannot be read ({error.strerror})", where=error.filename or self.path, remedy="check the path"
            ) from error
        return digests[0] if len(digests) == 1 else digest_json(digests)

    def describe(self) -> str:
        """Its path."""
        return str(self.path)


class ModelFolder:
    """A folder that holds a model: weights, config and, where it goes on training, the classifier."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def content(self) -> str:
        """SHA-256 over the files of the model.

        Raises:
            WeightsError: there is no model in this folder.
        """
        files = [self.folder / name for name in (MODEL, CONFIG, HEAD)]
        if not files[0].is_file():
            raise WeightsError(
                "there is no model in this folder", where=self.folder, remedy=f"it needs {files[0].name}"
            )
        return digest_json([[file.name, file_digest(file)] for file in files if file.is_file()])

    def describe(self) -> str:
        """Its path."""
        return str(self.folder)


def check_name(name: str, path: Path) -> None:
    """Tables hold UTF-8.

    Raises:
        PhotoError: the name of this photo is none.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PhotoError("its name is not valid UTF-8", where=path, remedy="rename the file") from None


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return [-1, 0, 0]
    return [stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns), stat.st_ino]


def _digest_or_reason(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        index = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}
