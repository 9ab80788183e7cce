"""Writing a pack: crops in blocks, each of which is safe on disk before the journal speaks of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sfplus import __version__
from sfplus.cli.unpack import narrowed
from sfplus.datasets import pack as packed
from sfplus.datasets.pack import BLOCK, INDEX, MANIFEST, PEOPLE, PIXELS
from sfplus.datasets.records import Item, Source
from sfplus.errors import DatasetError, PhotoError, UsageError
from sfplus.images import Pixels, is_transient
from sfplus.io.console import ProgressLine
from sfplus.io.files import file_digest
from sfplus.io.prefetch import prefetch_map
from sfplus.io.tables import FAILURES, read_json_lines, write_json_lines, write_parquet

STATE, JOURNAL = "state.json", "journal.jsonl"
LARGEST = 512
"""Height and width of a crop; more is a photo that was not aligned."""
_OTHER_SIZE = "align it again"
_THREADS = min(8, os.cpu_count() or 1)


class Writer:
    """One call's work on a partial pack.

    Args:
        source: the crops.
        partial: the folder in which the pack grows.
        state: what decides the pack: the stamp of the source and the options.
        narrow: cut 112 x 112 crops to 112 x 96.
        exclude: people to leave out.
    """

    def __init__(self, source: Source, partial: Path, state: dict[str, Any], narrow: bool, exclude: set[str]) -> None:
        self.source, self.partial, self.state, self.narrow, self.exclude = source, partial, state, narrow, exclude
        self.size: tuple[int, ...] = tuple(state["options"]["size"] or ())
        self.fixed = bool(self.size)

    def write(self, step: ProgressLine) -> None:
        """All that an interrupted call left to do."""
        journal = self.partial / JOURNAL
        blocks = read_json_lines(journal)
        write_json_lines(journal, blocks)  # without a line that a kill cut short
        start = blocks[-1]["next"] if blocks else 0
        if blocks:
            self.size = tuple(blocks[0]["size"])
        step.start(len(self.source), "crops", start)
        with (self.partial / PIXELS).open("ab") as file, journal.open("a", encoding="utf-8") as lines:
            done = sum(len(block["names"]) for block in blocks)
            file.truncate(done * self._bytes)  # what a kill left of a block
            for block in self._blocks(start, step, file):
                file.flush()
                os.fsync(file.fileno())
                lines.write(json.dumps(block) + "\n")
                lines.flush()
                blocks.append(block)
        if not any(block["names"] for block in blocks):
            raise self._nothing([failure for block in blocks for failure in block["failures"]])
        self._finish(blocks)

    def _nothing(self, failures: list[dict[str, Any]]) -> DatasetError:
        """Why there is no crop: where a size is wanted, that is it as soon as one has another."""
        if not failures:
            return DatasetError("is empty", where=self.source.root, remedy="give aligned crops: sfplus align")
        sized = [failure for failure in failures if failure["remedy"] == _OTHER_SIZE]
        first = (sized or failures)[0]
        reason = f"no crop of it can be used; the first: {first['photo']} {first['reason']}"
        remedy = "give another --size, or leave it out" if sized else "give aligned crops: sfplus align"
        return DatasetError(reason, where=self.source.root, remedy=remedy)

    def _blocks(self, start: int, step: ProgressLine, file: BinaryIO) -> Iterator[dict[str, Any]]:
        """All that is known of each block of crops, which are written as they come, and the number of the next item."""
        block, digest = _new_block(), hashlib.sha256()
        failed, unchecked = 0, not start
        items = prefetch_map(self._decode, self.source.items(start), 4 * _THREADS, _THREADS)
        for number, (item, crop) in enumerate(items, start + 1):
            if isinstance(crop, DatasetError):
                raise crop
            if isinstance(crop, PhotoError):
                failure = {"photo": item.name, "stage": "pack", "reason": crop.reason, "remedy": crop.remedy}
                block["failures"].append(failure)
                failed += 1
            elif crop is not None:
                self._check_size(item, crop)
                if unchecked:
                    self._check_room(len(self.source))
                    unchecked = False
                file.write(crop.data)
                digest.update(crop.data)
                block["names"].append(item.name)
                block["people"].append(item.person)
                block["sums"].append(zlib.crc32(crop.data))
            step.advance(1, f"{failed} failed" if failed else None)
            if len(block["names"]) == BLOCK:
                yield block | {"size": list(self.size), "next": number, "sha256": digest.hexdigest()}
                block, digest = _new_block(), hashlib.sha256()
        if block["names"] or block["failures"]:
            yield block | {"size": list(self.size), "next": len(self.source), "sha256": digest.hexdigest()}

    def _decode(self, item: Item) -> tuple[Item, Pixels | PhotoError | DatasetError | None]:
        """The crop, what is wrong with it or with the whole source, or None where its person is left out.

        What is wrong comes without its traceback, which would keep the pixels.
        """
        if item.person in self.exclude:
            return item, None
        try:
            for text in (item.name, item.person):
                text.encode()
            crop = item.decode()
            crop = narrowed(crop, item.name) if self.narrow else crop
        except UnicodeEncodeError:
            return item, PhotoError("its name is not valid UTF-8", where=item.name, remedy="rename the file")
        except PhotoError as error:
            if is_transient(error):
                raise  # not the picture's fault: the same command goes on another time
            return item, error.with_traceback(None)
        if self.fixed and crop.shape[:2] != self.size:
            return item, PhotoError(f"is {_said(crop.shape)}, not {_said(self.size)}", remedy=_OTHER_SIZE)
        if max(crop.shape[:2]) > LARGEST:
            reason = f"{item.name} is {_said(crop.shape)}, no aligned crop, which has at most {LARGEST} x {LARGEST}"
            remedy = "align the photos: sfplus align; or leave others out with --size HEIGHTxWIDTH"
            return item, DatasetError(reason, where=self.source.root, remedy=remedy)
        return item, crop

    def _check_size(self, item: Item, crop: Pixels) -> None:
        self.size = self.size or crop.shape[:2]
        if crop.shape[:2] != self.size:
            height, width = self.size
            raise DatasetError(
                f"{item.name} is {_said(crop.shape)}, those before it are {_said(self.size)}",
                where=self.source.root,
                remedy=f"align the photos (sfplus align), or leave others out with --size {height}x{width}",
            )

    def _check_room(self, count: int) -> None:
        needed = count * self._bytes
        if needed > (free := shutil.disk_usage(self.partial).free):
            reason = f"the pack needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f}"
            raise UsageError(reason, where=self.partial.parent, remedy="free some space or choose another disk")

    @property
    def _bytes(self) -> int:
        """Of a crop."""
        return 3 * self.size[0] * self.size[1] if self.size else 0

    def _finish(self, blocks: list[dict[str, Any]]) -> None:
        def all_(key: str) -> list[Any]:
            return [value for block in blocks for value in block[key]]

        owners = all_("people")
        people = sorted(set(owners))
        number = {person: label for label, person in enumerate(people)}
        failures = sorted(all_("failures"), key=lambda row: str(row["photo"]))
        labels, sums = np.array([number[owner] for owner in owners]), np.array(all_("sums"), np.uint32)
        write_parquet(self.partial / INDEX, {"name": all_("names"), "label": labels, "crc32": sums})
        write_parquet(self.partial / PEOPLE, {"person": people})
        write_json_lines(self.partial / FAILURES, failures)
        digests = {name: file_digest(self.partial / name) for name in (INDEX, PEOPLE)}
        shas = [block["sha256"] for block in blocks if block["names"]]
        height, width = self.size
        manifest = {
            "format": packed.FORMAT, "height": height, "width": width, "crops": len(owners), "people": len(people),
            "alone": int((np.bincount(labels) == 1).sum()), "failures": len(failures), "sha256": shas,
            "tables": digests, "content": packed.content(shas, digests), "state": self.state,
            "source": f"{self.source.root}, {self.source.kind}", "sfplus": __version__,
        }  # fmt: skip
        with (self.partial / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def _new_block() -> dict[str, Any]:
    return {"names": [], "people": [], "sums": [], "failures": []}


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
