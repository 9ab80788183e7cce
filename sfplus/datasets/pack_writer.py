"""Write packs: resumable after any interruption, and moved into place when they are complete."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from typing_extensions import TypedDict

from sfplus import __version__
from sfplus.datasets.formats.pack import BLOCK, FORMAT_NAME, INDEX, MANIFEST, PEOPLE, PIXELS, content_digest
from sfplus.datasets.pack_journal import JOURNAL, Block, journal_line, new_block, read_journal
from sfplus.datasets.records import PhotoCollection, Record
from sfplus.errors import DatasetError, PhotoError, SfplusError
from sfplus.images import PhotoHeader, Pixels, is_transient
from sfplus.io.console import ProgressLine, byte_count
from sfplus.io.disk import explain_write
from sfplus.io.files import file_digest, write_atomically, write_json
from sfplus.io.prefetch import prefetch_map
from sfplus.io.tables import FAILURES, Failure, write_json_lines, write_parquet

Narrow = Callable[[Pixels, str], Pixels]
"""A function that cuts a crop, given with its name, to the size of a narrower template: `alignment.narrow_crop`."""

STATE = "state.json"
MAX_SIZE = 512
"""Largest height and width of a crop, pixels; larger images are photos that were not aligned."""
_OTHER_SIZE = "align it again"
_THREADS = min(8, os.cpu_count() or 1)


class State(TypedDict):
    """The source and the options of a pack, which decide its contents."""

    source: str
    options: dict[str, Any]
    version: int


class PackWriter:
    """Writes the files of a pack into a folder, or continues where an interrupted writer stopped.

    Crops are written in blocks. A line about each block is added to a journal after its pixels are safe on the disk, so
    a new writer cuts off the pixels that the journal does not list and continues with the next record.

    Args:
        collection: the crops.
        folder: the folder to write into.
        state: what decides the pack: the digest of the collection and the options.
        narrow: cuts the crops; None: crops are packed as they are.
        exclude: people to leave out.
    """

    def __init__(
        self, collection: PhotoCollection, folder: Path, state: State, narrow: Narrow | None, exclude: set[str]
    ) -> None:
        self.collection, self.folder, self.state = collection, folder, state
        self.narrow, self.exclude = narrow, exclude
        self.size: tuple[int, ...] = tuple(state["options"]["size"] or ())
        self._skip_other_sizes = bool(self.size)

    def write(self, progress: ProgressLine) -> None:
        """Write all blocks that the journal does not list, then the tables and the manifest.

        Raises:
            DatasetError: If the collection cannot be read, contains no usable crop, or contains crops of several sizes.
            SfplusError: If the disk is too small.
        """
        journal = self.folder / JOURNAL
        blocks = read_journal(self.folder, len(self.collection))
        write_atomically(journal, "".join(map(journal_line, blocks)).encode())  # without an incomplete last line
        start = blocks[-1]["next"] if blocks else 0
        if blocks:
            self.size = tuple(blocks[0]["size"])
        progress.start(len(self.collection), "crops", start)
        with (
            explain_write(self.folder),
            (self.folder / PIXELS).open("ab") as file,
            journal.open("a", encoding="utf-8") as lines,
        ):
            for block in self._write_blocks(start, progress, file):
                file.flush()
                os.fsync(file.fileno())
                lines.write(journal_line(block))
                lines.flush()
                blocks.append(block)
        if not any(block["names"] for block in blocks):
            raise self._no_crop_error([failure for block in blocks for failure in block["failures"]])
        self._finish(blocks)

    def _no_crop_error(self, failures: list[Failure]) -> DatasetError:
        """Return the reason why there is no crop; a wrong size is named before all other reasons."""
        if not failures:
            reason, remedy = "is empty", "give aligned crops: sfplus align"
            return DatasetError(reason, where=self.collection.root, remedy=remedy)
        wrong_size = [failure for failure in failures if failure["remedy"] == _OTHER_SIZE]
        first = (wrong_size or failures)[0]
        reason = f"none of its crops can be used; the first: {first['photo']} {first['reason']}"
        remedy = "give another --size, or omit it" if wrong_size else "give aligned crops: sfplus align"
        return DatasetError(reason, where=self.collection.root, remedy=remedy)

    def _write_blocks(self, start: int, progress: ProgressLine, file: BinaryIO) -> Iterator[Block]:
        """Write the pixels block by block, and yield the journal entry of each block."""
        block, digest = new_block(), hashlib.sha256()
        failed, check_disk = 0, not start
        decoded = prefetch_map(self._decode, self.collection.records(start), 4 * _THREADS, _THREADS)
        for number, (record, crop) in enumerate(decoded, start + 1):
            if isinstance(crop, DatasetError):
                raise crop
            if isinstance(crop, PhotoError):
                failure: Failure = {"photo": record.name, "stage": "pack", "reason": crop.reason, "remedy": crop.remedy}
                block["failures"].append(failure)
                failed += 1
            elif crop is not None:
                self._check_size(record, crop)
                if check_disk:
                    self._check_disk_space(len(self.collection))
                    check_disk = False
                file.write(crop.data)
                digest.update(crop.data)
                block["names"].append(record.name)
                block["people"].append(record.person)
                block["sums"].append(zlib.crc32(crop.data))
            progress.advance(1, f"{failed} failed" if failed else None)
            if len(block["names"]) == BLOCK:
                yield self._finish_block(block, number, digest)
                block, digest = new_block(), hashlib.sha256()
        if block["names"] or block["failures"]:
            yield self._finish_block(block, len(self.collection), digest)

    def _finish_block(self, block: Block, end: int, digest: hashlib._Hash) -> Block:
        return {**block, "size": list(self.size), "next": end, "sha256": digest.hexdigest()}

    def _decode(self, record: Record) -> tuple[Record, Pixels | PhotoError | DatasetError | None]:
        """Return a record with its crop, with an error of the record or the collection, or with None if excluded.

        Errors are returned without their traceback, which would keep the pixels in memory.
        """
        if record.person in self.exclude:
            return record, None
        try:
            for text in (record.name, record.person):
                text.encode()
            crop = record.decode(partial(self._check_header, record))
            if self.narrow:
                crop = self.narrow(crop, record.name)
        except UnicodeEncodeError:
            return record, PhotoError("its name is not valid UTF-8", where=record.name, remedy="rename the file")
        except PhotoError as error:
            if is_transient(error):
                raise  # an error of the machine: the same command can continue later
            return record, error.with_traceback(None)
        except DatasetError as error:
            return record, error.with_traceback(None)
        if self._skip_other_sizes and crop.shape[:2] != self.size:
            return record, PhotoError(f"is {_pixels(crop.shape)}, not {_pixels(self.size)}", remedy=_OTHER_SIZE)
        return record, crop

    def _check_header(self, record: Record, header: PhotoHeader) -> None:
        """Refuse an image that is no crop before it is decoded; it may be turned by 90 degrees in its file.

        Raises:
            PhotoError: If it has another size than the crops that are asked for.
            DatasetError: If it is too large.
        """
        shape = header[:2]
        if max(shape) > MAX_SIZE and self._skip_other_sizes and sorted(shape) != sorted(self.size):
            raise PhotoError(f"is {_pixels(shape)}, not {_pixels(self.size)}", remedy=_OTHER_SIZE)
        if max(shape) > MAX_SIZE:
            reason = f"{record.name} is {_pixels(shape)}, aligned crops have at most {MAX_SIZE}x{MAX_SIZE}"
            remedy = "align the photos: sfplus align; or leave out other sizes with --size HEIGHTxWIDTH"
            raise DatasetError(reason, where=self.collection.root, remedy=remedy)

    def _check_size(self, record: Record, crop: Pixels) -> None:
        self.size = self.size or crop.shape[:2]
        if crop.shape[:2] != self.size:
            height, width = self.size
            raise DatasetError(
                f"{record.name} is {_pixels(crop.shape)}, the crops before it are {_pixels(self.size)}",
                where=self.collection.root,
                remedy=f"align the photos (sfplus align), or leave out other sizes with --size {height}x{width}",
            )

    def _check_disk_space(self, count: int) -> None:
        required = count * self._crop_bytes
        if required > (free := shutil.disk_usage(self.folder).free):
            reason = f"the pack needs {byte_count(required)}, the disk has {byte_count(free)}"
            raise SfplusError(reason, where=self.folder.parent, remedy="free some space or choose another disk")

    @property
    def _crop_bytes(self) -> int:
        return 3 * self.size[0] * self.size[1] if self.size else 0

    def _finish(self, blocks: list[Block]) -> None:
        """Write the tables, the failures and, last, the manifest."""

        def column(key: Literal["names", "people", "sums", "failures"]) -> list[Any]:
            return [value for block in blocks for value in block[key]]

        owners = column("people")
        people = sorted(set(owners))
        label_of = {person: label for label, person in enumerate(people)}
        labels, checksums = np.array([label_of[owner] for owner in owners]), np.array(column("sums"), np.uint32)
        write_parquet(self.folder / INDEX, {"name": column("names"), "label": labels, "crc32": checksums})
        write_parquet(self.folder / PEOPLE, {"person": people})
        write_json_lines(self.folder / FAILURES, sorted(column("failures"), key=lambda row: str(row["photo"])))
        table_digests = {name: file_digest(self.folder / name) for name in (INDEX, PEOPLE)}
        block_digests = [block["sha256"] for block in blocks if block["names"]]
        height, width = self.size
        manifest = {
            "format": FORMAT_NAME, "height": height, "width": width, "crops": len(owners), "people": len(people),
            "alone": int((np.bincount(labels) == 1).sum()), "failures": len(column("failures")),
            "sha256": block_digests, "tables": table_digests, "content": content_digest(block_digests, table_digests),
            "state": self.state, "source": f"{self.collection.root}, {self.collection.kind}", "sfplus": __version__,
        }  # fmt: skip
        write_json(self.folder / MANIFEST, manifest, sync=True, indent=1)


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} pixels"
