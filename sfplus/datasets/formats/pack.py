"""Packs: aligned crops in one memory-mapped file, so that training decodes nothing and processes share the memory.

A pack is a folder:

- `crops.u8`: N crops of H x W x 3 bytes, RGB, one after the other, without a header;
- `index.parquet`: `name`, `label` (0-based, people sorted by name) and `crc32` of each crop;
- `people.parquet`: the `person` of each label;
- `failures.jsonl`: the images of the source that were left out, with the reasons;
- `manifest.json`, written last: size and number of crops, SHA-256 of each block of crops and of both tables.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from sfplus.datasets.records import PhotoCollection, Record
from sfplus.errors import DatasetError
from sfplus.io.files import file_digest
from sfplus.io.foreign_parquet import read_table
from sfplus.io.json_files import read_json

PIXELS, INDEX, PEOPLE, MANIFEST = "crops.u8", "index.parquet", "people.parquet", "manifest.json"
FORMAT_NAME = "sfplus-pack"
BLOCK = 1024
"""Crops per block; each block has its own SHA-256."""
_REMEDY = "make it again with sfplus pack"


class Pack:
    """An open pack; sizes and tables are checked at once, the pixels of a crop when they are first used.

    Attributes:
        folder: folder of the pack.
        manifest: content of `manifest.json`.
        height: height of a crop, pixels.
        width: width of a crop, pixels.
        people: (P,) name of the person of each label.
        labels: (N,) int64.
        pixels: (N, H, W, 3) uint8 RGB, read-only and memory-mapped.

    Raises:
        DatasetError: If a file is missing, truncated or changed, or a label has no person.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.height, self.width = self.manifest["height"], self.manifest["width"]
        count = self.manifest["crops"]
        for name in (PIXELS, INDEX, PEOPLE):
            self._check(name, (folder / name).is_file(), "is missing")
        for name in (INDEX, PEOPLE):
            self._check(name, file_digest(folder / name) == self.manifest["tables"].get(name), "was changed")
        size, expected = (folder / PIXELS).stat().st_size, count * self.height * self.width * 3
        self._check(PIXELS, size == expected, f"has {size:,} bytes, not {expected:,}: it was cut short or changed")
        self.people: list[str] = self._column(PEOPLE, "person", pa.types.is_string).to_pylist()
        self._check(PEOPLE, len(set(self.people)) == len(self.people), "names a person twice")
        labels = self._column(INDEX, "label", pa.types.is_integer)
        self._check(INDEX, len(labels) == count, f"has {len(labels)} rows for {count} crops")
        self.labels: NDArray[np.int64] = labels.to_numpy().astype(np.int64)
        in_range = int(self.labels.min()) >= 0 and int(self.labels.max()) < len(self.people)
        self._check(INDEX, in_range, f"has labels beyond its {len(self.people)} people")
        checksums = self._column(INDEX, "crc32", pa.types.is_integer)
        self._checksums: NDArray[np.uint32] = checksums.to_numpy().astype(np.uint32)
        shape = (count, self.height, self.width, 3)
        self.pixels = np.memmap(folder / PIXELS, np.uint8, "r", shape=shape).view(np.ndarray)
        self._verified = np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def names(self) -> list[str]:
        """The name of each crop in the collection that was packed."""
        names: list[str] = self._column(INDEX, "name", pa.types.is_string).to_pylist()
        return names

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of the crops of some rows, uint8 RGB (B, H, W, 3).

        A crop is compared with its checksum when it is first taken.

        Raises:
            DatasetError: If the bytes of a crop were changed after it was packed.
        """
        crops = np.take(self.pixels, rows, axis=0)
        for position in np.flatnonzero(~self._verified[rows]):
            if zlib.crc32(crops[position].data) != self._checksums[rows[position]]:
                raise self._changed_crop(int(rows[position]))
        self._verified[rows] = True
        return crops

    def check(self) -> Iterator[int]:
        """Compare every block with its SHA-256, and yield the number of crops of each.

        Raises:
            DatasetError: If a block was changed; the message names the crop if the change is in its pixels.
        """
        for block, expected in enumerate(self.manifest["sha256"]):
            start = block * BLOCK
            crops = self.pixels[start : start + BLOCK]
            if hashlib.sha256(crops.data).hexdigest() != expected:
                rows = range(start, start + len(crops))
                changed = [row for row in rows if zlib.crc32(self.pixels[row].data) != self._checksums[row]]
                raise self._changed_crop(changed[0]) if changed else self._error(PIXELS, f"block {block} was changed")
            yield len(crops)

    def _changed_crop(self, row: int) -> DatasetError:
        crop = f"crop {row} (counted from 0; {self.names[row]}) in block {row // BLOCK}"
        return self._error(PIXELS, f"{crop} was changed: its checksum differs")

    def _column(self, name: str, column: str, is_kind: Callable[[pa.DataType], bool]) -> pa.ChunkedArray:
        """Return a column of a table, without empty cells."""
        values = read_table(self.folder / name, [column], remedy=_REMEDY, error=DatasetError).column(column)
        valid = is_kind(values.type) and not values.null_count
        self._check(name, valid, f"was changed: its column '{column}' is {values.type} with {values.null_count} empty")
        return values

    def _check(self, name: str, valid: bool, reason: str) -> None:
        if not valid:
            raise self._error(name, reason)

    def _error(self, name: str, reason: str) -> DatasetError:
        return DatasetError(reason, where=self.folder / name, remedy=_REMEDY)


class PackCollection(PhotoCollection):
    """The crops of a pack as a collection, to pack a part of them again or to compare people."""

    kind = "pack"
    accepts = "a pack"
    priority = 0

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pack = Pack(root)

    @classmethod
    def open(cls, path: Path, split: str) -> PackCollection | None:
        """Open the folder of a pack."""
        return cls(path) if is_pack(path) else None

    def files(self) -> list[Path]:
        """Return the manifest, the tables and the pixels."""
        return [self.root / name for name in (MANIFEST, INDEX, PEOPLE, PIXELS)]

    def __len__(self) -> int:
        return len(self._pack)

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the crops from number `start` on."""
        pack = self._pack
        for row in range(start, len(pack)):
            yield Record(pack.names[row], pack.people[pack.labels[row]], pack.take(np.array([row]))[0])


def content_digest(block_digests: Sequence[str], table_digests: dict[str, str]) -> str:
    """Return the digest of a pack from the SHA-256 of its blocks and tables."""
    return hashlib.sha256(json.dumps([list(block_digests), sorted(table_digests.items())]).encode()).hexdigest()


def is_pack(folder: Path) -> bool:
    """Return True if a folder contains the pixels of a pack, finished or not."""
    return (folder / PIXELS).is_file()


@with_config(ConfigDict(strict=True))
class Manifest(TypedDict):
    """The content of `manifest.json` that is used; it also names the source and the version of sfplus."""

    format: Literal["sfplus-pack"]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    crops: Annotated[int, Field(ge=1)]
    alone: Annotated[int, Field(ge=0)]
    sha256: list[str]
    tables: dict[str, str]
    content: str
    state: dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """Return the content of `manifest.json` of a pack.

    Raises:
        DatasetError: If there is no manifest, or it was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError("is not a finished pack", where=folder, remedy="make one with sfplus pack")
    manifest = read_json(path, Manifest, remedy=_REMEDY, error=DatasetError)
    fits = -(-manifest["crops"] // BLOCK) == len(manifest["sha256"])
    if not fits or manifest["content"] != content_digest(manifest["sha256"], manifest["tables"]):
        raise DatasetError("is not the manifest of a pack, or was changed", where=path, remedy=_REMEDY)
    return manifest


FORMAT = PackCollection
