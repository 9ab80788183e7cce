"""Inputs of stages: folders of photos, packs, models and files, each with a digest of its content."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sfplus.datasets.formats.pack import read_manifest
from sfplus.errors import DatasetError, PhotoError
from sfplus.images import list_photos, needs_missing_package
from sfplus.io.console import quantity
from sfplus.io.files import digest_json, file_digest, write_json
from sfplus.weights.find_model import ModelSource

_CLOCK_TICK_NS = 2_000_000_000  # a file changed this recently may change again with the same time stamp


class StageInput(Protocol):
    """An input of a stage."""

    @property
    def content(self) -> str:
        """A digest of everything that the stage could read from it."""

    def describe(self) -> str:
        """Describe the input for people: its kind and size."""


class PhotoFolder:
    """A folder of photos; its content is the names and bytes of the photos in it.

    Args:
        root: The folder.
        index: A file that remembers digests by size and modification time, so that unchanged photos are not read again.
        names: The photos that count, sorted; by default all in the folder.
    """

    def __init__(self, root: Path, index: Path, names: list[str] | None = None) -> None:
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


class PackFolder:
    """A pack of crops (see `datasets.pack`); its content is the digests in its manifest.

    Args:
        root: The folder of the pack.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def content(self) -> str:
        """SHA-256 over the digests of blocks and tables.

        Raises:
            DatasetError: If there is no finished pack in this folder, or it was changed.
        """
        return str(read_manifest(self.root)["content"])

    def describe(self) -> str:
        """Return the folder and the number of crops."""
        return f"{self.root}, a pack of {quantity(read_manifest(self.root)['crops'], 'crop')}"


class InputFile:
    """A file of the user's, or several files that are read as one.

    Args:
        path: The path that the stage is given.
        files: All files that are read for it; by default the path itself.
    """

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        self.path, self._files = path, files or (path,)

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes, or for several files a digest over theirs.

        Raises:
            DatasetError: If a file is missing or unreadable.
        """
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


class ModelInput:
    """A model of the user's: a folder, a file or a function.

    Args:
        source: The model as the user named it.

    Attributes:
        source: As passed.
    """

    def __init__(self, source: ModelSource) -> None:
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
        return self.source.content

    def describe(self) -> str:
        """Return the path."""
        return str(self.folder)


def check_name(name: str, path: Path) -> None:
    """Check that the name of a photo can be stored in a table, which holds UTF-8.

    Raises:
        PhotoError: If the name is not valid UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PhotoError("its name is not valid UTF-8", where=path, remedy="rename the file") from None


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (pathlib is slow for 500,000 files)
    except OSError:
        return [-1, 0, 0]
    return [status.st_size, max(status.st_mtime_ns, status.st_ctime_ns), status.st_ino]


def digest_or_reason(path: Path) -> str:
    """Return the SHA-256 of a file; of one that cannot be read, or is not a regular file, the reason."""
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
