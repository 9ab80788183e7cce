"""Inputs of stages: folders of photos, packs, models and files, each with a digest of its content."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sfplus.datasets.formats.pack import INDEX, MANIFEST, PEOPLE, PIXELS, read_manifest
from sfplus.errors import ArtefactError, DatasetError, PhotoError, warn_user
from sfplus.images import list_photos, needs_missing_package
from sfplus.io.console import quantity
from sfplus.io.files import digest_json, file_digest, write_json
from sfplus.io.json_files import read_json
from sfplus.io.tables import AnyText
from sfplus.weights import FOLDER_FILES
from sfplus.weights.find_model import ModelSource

_CLOCK_TICK_NS = 2_000_000_000  # a file changed this recently may change again with the same time stamp


class StageInput(Protocol):
    """An input of a stage."""

    @property
    def content(self) -> str:
        """A digest of everything that the stage could read from it."""

    def describe(self) -> str:
        """Describe the input for people: its kind and size."""


class UserInput:
    """An input of the user's, who may change it while it is read.

    Attributes:
        seen: The stamp and the SHA-256, or "", of each file by its path, as they were when the content was computed.
    """

    def __init__(self) -> None:
        self.seen: dict[str, tuple[list[int], str]] = {}

    def see(self, *files: Path) -> None:
        """Remember the state of files; what was seen first counts."""
        for file in files:
            self.seen.setdefault(os.fspath(file), (_written(os.fspath(file)), ""))

    def check_unchanged(self, files: Iterable[Path] | None = None) -> None:
        """Check that files are still those whose content decided the fingerprint.

        Args:
            files: Some of the files; by default all.

        Raises:
            DatasetError: If one was changed.
        """
        for path in self.seen if files is None else map(os.fspath, files):
            stamp, digest = self.seen.get(path, ([], ""))
            now = _stamp(path) if digest else _written(path)
            # the stamp also changes when a file gets a link, other rights or the same content again
            if stamp and now != stamp and not (digest and digest_or_reason(Path(path)) == digest):
                raise DatasetError("was changed while it was read", where=path, remedy="run again")


class PhotoFolder(UserInput):
    """A folder of photos; its content is the names and bytes of the photos in it.

    Args:
        root: The folder.
        index: A file that remembers digests by size and modification time, so that unchanged photos are not read again.
        names: The photos that count, sorted; by default all in the folder.
    """

    def __init__(self, root: Path, index: Path, names: list[str] | None = None) -> None:
        super().__init__()
        self.root = root
        self._index, self._names = index, names

    @cached_property
    def photos(self) -> list[str]:
        """The photos, sorted, as paths relative to `root`.

        Raises:
            DatasetError: If the folder does not exist or holds no photo.
        """
        photos = list_photos(self.root) if self._names is None else self._names
        if not photos:
            raise DatasetError("there is no photo in this folder", where=self.root, remedy="check the path")
        return photos

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each photo by its name; of a photo that cannot be read, the reason."""
        index = _read_index(self._index)
        now, root = time.time_ns(), os.fspath(self.root)
        entries: dict[str, list[Any]] = {}
        changed = []
        for name in self.photos:
            stamp = _stamp(f"{root}/{name}")
            if name in index and index[name][:3] == stamp:
                entries[name] = index[name]
            else:
                entries[name] = [*stamp, ""]
                changed.append(name)
        with ThreadPoolExecutor(4) as pool:
            digests = pool.map(lambda name: digest_or_reason(self.root / name), changed)
            for name, digest in zip(changed, digests, strict=True):
                entries[name][3] = digest
        settled = {name: entry for name, entry in entries.items() if now - entry[1] > _CLOCK_TICK_NS}
        if self._names is not None:
            settled = index | settled  # photos that do not count here are remembered for other uses of the folder
        if settled != index:
            self._index.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._index, settled)
        self.seen = {f"{root}/{name}": (entry[:3], entry[3]) for name, entry in entries.items()}
        return {name: entries[name][3] for name in self.photos}

    @cached_property
    def content(self) -> str:
        """SHA-256 over names and bytes; a photo that cannot be read counts by its name."""
        # a photo counts as changed once the package is installed that decodes it
        unreadable = set(needs_missing_package(self.photos))
        return digest_json([[*item, *(["no decoder"] * (item[0] in unreadable))] for item in self.digests.items()])

    def describe(self) -> str:
        """Return the folder and the number of photos."""
        return f"{self.root}, {quantity(len(self.photos), 'photo')}"


class PackFolder(UserInput):
    """A pack of crops (see `datasets.pack`); its content is the digests in its manifest.

    Args:
        root: The folder of the pack.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    @cached_property
    def content(self) -> str:
        """SHA-256 over the digests of blocks and tables.

        Raises:
            DatasetError: If there is no finished pack in this folder, or it was changed.
        """
        self.see(*(self.root / name for name in (MANIFEST, INDEX, PEOPLE, PIXELS)))
        return str(read_manifest(self.root)["content"])

    def describe(self) -> str:
        """Return the folder and the number of crops."""
        return f"{self.root}, a pack of {quantity(read_manifest(self.root)['crops'], 'crop')}"


class InputFile(UserInput):
    """A file of the user's, or several files that are read as one.

    Args:
        path: The path that the stage is given.
        files: All files that are read for it; by default the path itself.
    """

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        super().__init__()
        self.path, self._files = path, files or (path,)

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes, or for several files a digest over theirs.

        Raises:
            DatasetError: If a file is missing or unreadable.
        """
        self.see(*self._files)
        try:
            digests = [file_digest(file) for file in self._files]
        except OSError as error:
            raise DatasetError(
                f"cannot be read ({error.strerror})", where=error.filename or self.path, remedy="check the path"
            ) from error
        return digests[0] if len(digests) == 1 else digest_json(digests)

    def describe(self) -> str:
        """Return the path."""
        return str(self.path)


class ModelInput(UserInput):
    """A model of the user's: a folder, a file or a function.

    Args:
        source: The model as the user named it.

    Attributes:
        source: As passed.
    """

    def __init__(self, source: ModelSource) -> None:
        super().__init__()
        self.source = source

    @property
    def folder(self) -> Path:
        """The folder or file; of a function, its name."""
        return self.source.path

    @property
    def content(self) -> str:
        """SHA-256 over everything that decides the features.

        Raises:
            WeightsError: If there is no model.
        """
        path = self.source.path
        self.see(*(path / name for name in FOLDER_FILES)) if path.is_dir() else self.see(path)
        return self.source.content

    def describe(self) -> str:
        """Return the path."""
        return str(self.folder)


def is_utf8(name: str) -> bool:
    """Return whether the name of a photo can be stored in a table, which holds UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_name(name: str, path: Path) -> None:
    """Check that the name of a photo can be stored in a table.

    Raises:
        PhotoError: If the name is not valid UTF-8.
    """
    if not is_utf8(name):
        raise PhotoError("its name is not valid UTF-8", where=path, remedy="rename the file")


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (pathlib is slow for 500,000 files)
    except OSError:
        return [-1, 0, 0]
    return [status.st_size, max(status.st_mtime_ns, status.st_ctime_ns), status.st_ino]


def _written(path: str) -> list[int]:
    """Return the size and the time of the last write, which links, other rights and a remounted disk do not change."""
    try:
        status = os.stat(path)  # noqa: PTH116 (as above)
    except OSError:
        return [-1, 0]
    return [status.st_size, status.st_mtime_ns]


def digest_or_reason(path: Path) -> str:
    """Return the SHA-256 of a file; of one that cannot be read, or is not a regular file, the reason."""
    try:
        return file_digest(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        index = read_json(path, dict[AnyText, tuple[int, int, int, str]], remedy="run again", limit="record_bytes")
    except ArtefactError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            warn_user(f"{path}: {error.reason}; all photos are read again")
        return {}
    return {name: list(entry) for name, entry in index.items()}
