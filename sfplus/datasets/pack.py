"""Packs: aligned crops as one memory-mapped file of pixels, so that training decodes nothing and ranks share the pages.

A pack is a folder:

- `crops.u8`: N crops of H x W x 3 bytes, RGB, one after the other, nothing else;
- `index.parquet`: for each crop its `name`, its `label` (0-based, people sorted by name) and its `crc32`;
- `people.parquet`: the `person` of each label;
- `failures.jsonl`: the pictures of the source that were left out, and why;
- `manifest.json`, written last: size and number of crops, SHA-256 of each block of crops and of both tables.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfplus.datasets.records import Item
from sfplus.errors import DatasetError
from sfplus.io.files import file_digest

PIXELS, INDEX, PEOPLE, MANIFEST = "crops.u8", "index.parquet", "people.parquet", "manifest.json"
FORMAT = "sfplus-pack"
BLOCK = 1024
"""Crops of a block; each has its own SHA-256."""
_AGAIN = "make it again with sfplus pack"


class Pack:
    """A pack, opened: sizes and tables are checked at once, a crop's pixels when they are first used.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` says.
        height: of a crop, pixels.
        width: of a crop, pixels.
        people: the names that labels stand for.
        labels: (N,) int64.
        pixels: (N, H, W, 3) uint8, read-only, in the file.

    Raises:
        DatasetError: a file is missing, cut short or changed, or a label is beyond the people.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.height, self.width, count = (int(self.manifest[key]) for key in ("height", "width", "crops"))
        for name in (PIXELS, INDEX, PEOPLE):
            self._check(name, (folder / name).is_file(), "is missing")
        for name in (INDEX, PEOPLE):
            self._check(name, file_digest(folder / name) == self.manifest["tables"][name], "was changed")
        size, expected = (folder / PIXELS).stat().st_size, count * self.height * self.width * 3
        self._check(PIXELS, size == expected, f"has {size:,} bytes, not {expected:,}: it was cut short or changed")
        try:
            table = pq.read_table(folder / INDEX, columns=["label", "crc32"])
            self.people: list[str] = pq.read_table(folder / PEOPLE)["person"].to_pylist()
            self.labels: NDArray[np.int64] = table["label"].to_numpy().astype(np.int64)
            self._sums: NDArray[np.uint32] = table["crc32"].to_numpy().astype(np.uint32)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DatasetError(f"cannot be read ({error})", where=folder / INDEX, remedy=_AGAIN) from error
        self._check(INDEX, len(self.labels) == count, f"has {len(self.labels)} rows for {count} crops")
        fits = int(self.labels.min()) >= 0 and int(self.labels.max()) < len(self.people)
        self._check(INDEX, fits, f"holds labels beyond its {len(self.people)} people")
        shape = (count, self.height, self.width, 3)
        self.pixels = np.memmap(folder / PIXELS, np.uint8, "r", shape=shape).view(np.ndarray)
        self._trusted = np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def names(self) -> list[str]:
        """The name of each crop in the source that it was made from."""
        names: list[str] = pq.read_table(self.folder / INDEX, columns=["name"])["name"].to_pylist()
        return names

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of some crops (B, H, W, 3); each is compared with its checksum the first time.

        Raises:
            DatasetError: the bytes of a crop are not those that were packed.
        """
        crops = np.take(self.pixels, rows, axis=0)
        for place in np.flatnonzero(~self._trusted[rows]):
            if zlib.crc32(crops[place].data) != self._sums[rows[place]]:
                raise self._changed(int(rows[place]))
        self._trusted[rows] = True
        return crops

    def check(self) -> Iterator[int]:
        """Compare every block with its SHA-256; yields the number of crops of each.

        Raises:
            DatasetError: a block was changed; the crop is named where the change is in its pixels.
        """
        for block, expected in enumerate(self.manifest["sha256"]):
            first = block * BLOCK
            crops = self.pixels[first : first + BLOCK]
            if hashlib.sha256(crops.data).hexdigest() != expected:
                rows = range(first, first + len(crops))
                changed = [row for row in rows if zlib.crc32(self.pixels[row].data) != self._sums[row]]
                raise self._changed(changed[0]) if changed else self._wrong(PIXELS, f"block {block} was changed")
            yield len(crops)

    def _changed(self, row: int) -> DatasetError:
        what = (
            f"crop {row} (counted from 0; {self.names[row]}) in block {row // BLOCK} was changed: its checksum differs"
        )
        return self._wrong(PIXELS, what)

    def _check(self, name: str, right: bool, reason: str) -> None:
        if not right:
            raise self._wrong(name, reason)

    def _wrong(self, name: str, reason: str) -> DatasetError:
        return DatasetError(reason, where=self.folder / name, remedy=_AGAIN)


class PackSource:
    """The crops of a pack as a source, to pack a part of them anew or to compare people."""

    kind = "pack"
    remarks = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pack = Pack(root)

    def files(self) -> list[Path]:
        """Manifest, tables and pixels."""
        return [self.root / name for name in (MANIFEST, INDEX, PEOPLE, PIXELS)]

    def __len__(self) -> int:
        return len(self._pack)

    def items(self, start: int = 0) -> Iterator[Item]:
        """The crops from number `start` on."""
        pack = self._pack
        for row in range(start, len(pack)):
            yield Item(pack.names[row], pack.people[pack.labels[row]], pack.take(np.array([row]))[0])


def content(sums: Sequence[str], tables: dict[str, str]) -> str:
    """The digest of a pack: of the SHA-256 of its blocks and tables."""
    return hashlib.sha256(json.dumps([list(sums), sorted(tables.items())]).encode()).hexdigest()


def is_pack(folder: Path) -> bool:
    """Whether a folder is a pack, or was to become one."""
    return (folder / PIXELS).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `manifest.json` says.

    Raises:
        DatasetError: there is none, or it was changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        blocks = -(-int(manifest["crops"]) // BLOCK)
        right = (
            manifest["format"] == FORMAT
            and blocks == len(manifest["sha256"]) > 0
            and min(int(manifest["height"]), int(manifest["width"])) > 0
            and manifest["content"] == content(manifest["sha256"], manifest["tables"])
        )
    except FileNotFoundError:
        raise DatasetError("holds no finished pack", where=folder, remedy="make one with sfplus pack") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise DatasetError("is no manifest of a pack, or was changed", where=folder / MANIFEST, remedy=_AGAIN)
    return manifest
