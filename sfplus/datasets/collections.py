"""Open any collection of people's pictures: identity folders, RecordIO, WebDataset shards, Parquet, packs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from sfplus.datasets.pack import PackSource, is_pack
from sfplus.datasets.parquet import Tables
from sfplus.datasets.recordio import RecordIO
from sfplus.datasets.records import Item, Source, person_of
from sfplus.datasets.webdataset import Shards
from sfplus.errors import DatasetError, PhotoError
from sfplus.images import list_photos

_KNOWN = "a folder per person, a .rec file, .tar shards, .parquet files, a pack"


def open_source(path: Path, split: str = "") -> Source:
    """Open a collection by what it is.

    Args:
        path: a pack; a `.rec`, `.tar` or `.parquet` file; a folder with some of one of these (Parquet at any depth, as
            data sets of Hugging Face have it); or else a folder per person.
        split: of files named like `train-00000-of-00004.parquet`, only those of this split.

    Raises:
        DatasetError: there is no such file or folder, it holds nothing of the kind, or it is damaged.
    """
    if path.is_file():
        if path.suffix == ".rec":
            return RecordIO(path)
        if path.suffix == ".tar":
            return Shards(path, [path])
        if path.suffix == ".parquet":
            return Tables(path, [path])
        raise DatasetError("is no collection of photos that is known", where=path, remedy=f"give {_KNOWN}")
    if not path.is_dir():
        raise DatasetError("there is nothing at this path", where=path, remedy="check the path")
    if is_pack(path):
        return PackSource(path)
    for suffix in ("rec", "tar", "parquet"):
        files = sorted(path.rglob("*.parquet") if suffix == "parquet" else path.glob(f"*.{suffix}"))
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not files or (suffix == "parquet" and not Tables.fit(files[0]) and Folders.fit(path)):
            continue
        if suffix == "rec":
            if len(files) > 1:
                raise DatasetError(f"holds {len(files)} .rec files", where=path, remedy="give one of them")
            return RecordIO(files[0])
        files = _of_split(path, files, split)
        return Shards(path, files) if suffix == "tar" else Tables(path, files)
    return Folders(path)


def _of_split(path: Path, files: Sequence[Path], split: str) -> list[Path]:
    """The shards of one split; there must be no doubt which."""
    names = {file: file.stem.rpartition("-of-")[0].rpartition("-")[0] for file in files}
    chosen = [file for file, name in names.items() if not split or name == split]
    splits = sorted({names[file] for file in chosen})
    if len(splits) != 1:
        known = ", ".join(sorted({name or "(none)" for name in names.values()}))
        reason = f"its files are of the splits {known}" + (f", none of '{split}'" if split else "")
        raise DatasetError(reason, where=path, remedy="name one with --split, or give one of the files")
    return chosen


def stamp(source: Source) -> str:
    """SHA-256 over the names, sizes and times of change of all that a source is read from, whatever way it is named."""
    digest = hashlib.sha256(os.fsencode(source.root.resolve()))
    for file in source.files():
        try:
            status = file.stat()
        except OSError:  # a broken link is an item that says so
            continue
        name = os.fsencode(os.path.relpath(file, source.root))
        digest.update(b"%s\0%d\0%d\n" % (name, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


class Folders:
    """A folder per person, photos inside, in the order of `identities`.

    Raises:
        DatasetError: there is no photo in it.
    """

    kind = "folders"

    def __init__(self, root: Path) -> None:
        self.root = root
        names = [(Path(name).parent.as_posix(), name) for name in list_photos(root)]
        if not names:
            raise DatasetError("there are no photos of people in this folder", where=root, remedy=f"give {_KNOWN}")
        self._names = [name for _, name in sorted(names)]
        full = {person.split("/")[0] for person, _ in names}
        empty = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and entry.name not in full and entry.name[0] != "."
        )
        shown = f"{len(empty)} folders without a photo are no people, the first is {empty[0]}" if empty else ""
        self.remarks = (shown,) if shown else ()

    @staticmethod
    def fit(root: Path) -> bool:
        """Whether people's photos lie in it; tables beside them, as sfplus align makes, are no collection then."""
        return any("/" in name for name in list_photos(root))

    def files(self) -> list[Path]:
        """The photos."""
        return [self.root / name for name in self._names]

    def __len__(self) -> int:
        return len(self._names)

    def items(self, start: int = 0) -> Iterator[Item]:
        """The photos in order."""
        for name in islice(self._names, start, None):
            try:
                yield Item(name, person_of(name), self.root / name)
            except PhotoError as error:
                yield Item(name, "", error)
