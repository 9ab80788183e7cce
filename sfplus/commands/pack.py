"""`sfplus pack`: the crops of any collection as one memory-mapped file, to train from without decoding."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from sfplus import __version__
from sfplus.ahead import ahead
from sfplus.commands.unpack import narrowed
from sfplus.console import Console, Step
from sfplus.datasets import packed
from sfplus.datasets.items import Item, Source
from sfplus.datasets.packed import BLOCK, INDEX, MANIFEST, PEOPLE, PIXELS, Pack
from sfplus.datasets.sources import open_source, stamp
from sfplus.download import file_digest
from sfplus.errors import DatasetError, PhotoError, UsageError
from sfplus.images import Pixels, is_passing
from sfplus.stages.tables import FAILURES, Journal, write_lines, write_table

_STATE, _JOURNAL = "state.json", "journal.jsonl"
_SHOWN = 5
_THREADS = min(8, os.cpu_count() or 1)


def pack(
    path: Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    narrow: bool = False,
    exclude: Collection[str] = (),
    split: str = "",
) -> int:
    """Pack the crops of a collection (see `open_source`), which is not changed; returns the exit code.

    The pack grows in `OUT.partial` and is moved into place when it is whole. A call that was interrupted at any moment,
    even by `kill -9`, goes on after its last whole block, if the source and the options are as they were, and else
    begins again. The same source gives the same pixels, tables and digests, interrupted or not.

    Args:
        path: the collection.
        out: the folder of the pack; it must be new, empty or the same pack, which is left as it is.
        size: height and width; crops of others are left out. None: the first crop decides, another size is an error.
        narrow: cut 112 x 112 crops to the 112 x 96 of the SphereFace networks.
        exclude: people to leave out.
        split: of files named like `train-00000-of-00004.parquet`, only those of this split.

    Returns:
        1 if a picture could not be used (`failures.jsonl` in the pack says which and why), else 0.

    Raises:
        DatasetError: the source cannot be read, holds no usable crop, or crops of several sizes.
        UsageError: OUT holds other files, lies in the source or on a disk that is too small.
    """
    console = Console()
    source = open_source(path, split)
    for remark in source.remarks:
        console.warn(f"{path}: {remark}")
    options = {"size": list(size) if size else None, "narrow": narrow, "exclude": sorted(exclude), "split": split}
    state = {"source": stamp(source), "options": options, "version": 1}
    _keep_apart(path, out)
    with _alone(out):
        if not (out / MANIFEST).is_file():
            partial = _partial(out, state)
            with console.step("pack", resumed=(partial / _JOURNAL).exists()) as step:
                _Writer(source, partial, state, narrow, set(exclude)).write(step)
            if out.is_dir():
                out.rmdir()
            partial.replace(out)
        elif Pack(out).manifest.get("state") == state:
            console.fresh("pack")
        else:
            reason = "is a pack of another source, of this one before it changed, or with other options"
            raise UsageError(reason, where=out, remedy="choose a new OUT, or delete this one")
    return _close(out, console)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other runs away from OUT.

    Raises:
        UsageError: another run is packing into it.
    """
    lock = filelock.FileLock(out.with_name(f".{out.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            yield
            Path(lock.lock_file).unlink(missing_ok=True)  # what follows finds a finished pack
    except filelock.Timeout:
        raise UsageError("another run is packing into it", where=out, remedy="wait for it") from None


def check(folder: Path) -> None:
    """Compare all of a pack with its checksums, and say so.

    Raises:
        DatasetError: a file is missing or changed; block and crop are named.
    """
    opened = Pack(folder)
    with Console().step("check", resumed=False) as step:
        step.start(len(opened), "crops")
        for count in opened.check():
            step.advance(count)
    print(f"{folder}: whole, {len(opened)} crops of {len(opened.people)} people")


class _Writer:
    """One call's work on a partial pack."""

    def __init__(self, source: Source, partial: Path, state: dict[str, Any], narrow: bool, exclude: set[str]) -> None:
        self.source, self.partial, self.state, self.narrow, self.exclude = source, partial, state, narrow, exclude
        self.size: tuple[int, ...] = tuple(state["options"]["size"] or ())
        self.fixed = bool(self.size)

    def write(self, step: Step) -> None:
        journal = Journal(self.partial / _JOURNAL)
        blocks = journal.rows
        start = blocks[-1]["next"] if blocks else 0
        if blocks:
            self.size = tuple(blocks[0]["size"])
        step.start(len(self.source), "crops", start)
        with (self.partial / PIXELS).open("ab") as file:
            done = sum(len(block["names"]) for block in blocks)
            file.truncate(done * self._bytes)  # what a kill left of a block
            for block in self._blocks(start, step):
                crops = block.pop("crops")
                if not blocks:
                    self._check_room(len(self.source) - start)
                file.write(crops.data)
                file.flush()
                os.fsync(file.fileno())
                journal.add([block])
                blocks.append(block)
        if not any(block["names"] for block in blocks):
            first = next((failure for block in blocks for failure in block["failures"]), None)
            reason = (
                f"no crop of it can be used; the first: {first['photo']} {first['reason']}" if first else "is empty"
            )
            raise DatasetError(reason, where=self.source.root, remedy="give aligned crops: sfplus align")
        self._finish(blocks)
        journal.remove()

    def _blocks(self, start: int, step: Step) -> Iterator[dict[str, Any]]:
        """Blocks of crops with all that is known of them, and the number of the item after each."""
        crops: list[Pixels] = []
        block = _new_block()
        failed = 0
        items = ahead(self._decode, self.source.items(start), 4 * _THREADS, _THREADS)
        for number, (item, crop) in enumerate(items, start + 1):
            if isinstance(crop, PhotoError):
                failure = {"photo": item.name, "stage": "pack", "reason": crop.reason, "remedy": crop.remedy}
                block["failures"].append(failure)
                failed += 1
            elif crop is not None:
                self._check_size(item, crop)
                crops.append(crop)
                block["names"].append(item.name)
                block["people"].append(item.person)
                block["sums"].append(zlib.crc32(crop.data))
            step.advance(1, f"{failed} failed" if failed else None)
            if len(crops) == BLOCK:
                yield self._closed(block, crops, number)
                crops, block = [], _new_block()
        if crops or block["failures"]:
            yield self._closed(block, crops, len(self.source))

    def _closed(self, block: dict[str, Any], crops: list[Pixels], number: int) -> dict[str, Any]:
        pixels = np.stack(crops) if crops else np.empty(0, np.uint8)
        block |= {"crops": pixels, "size": list(self.size), "next": number}
        return block | {"sha256": hashlib.sha256(pixels.data).hexdigest()}

    def _decode(self, item: Item) -> tuple[Item, Pixels | PhotoError | None]:
        """The crop, what is wrong with it, or None where its person is left out."""
        if item.person in self.exclude:
            return item, None
        try:
            for text in (item.name, item.person):
                text.encode()
            crop = item.decode()
            crop = narrowed(crop, item.name) if self.narrow else crop
            if self.fixed and crop.shape[:2] != self.size:
                raise PhotoError(f"is {_said(crop.shape)}, not {_said(self.size)}", remedy="align it again")
        except UnicodeEncodeError:
            return item, PhotoError("its name is not valid UTF-8", where=item.name, remedy="rename the file")
        except PhotoError as error:
            if is_passing(error):
                raise  # not the picture's fault: the same command goes on another time
            return item, error
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
        write_table(self.partial / INDEX, {"name": all_("names"), "label": labels, "crc32": sums})
        write_table(self.partial / PEOPLE, {"person": people})
        write_lines(self.partial / FAILURES, failures)
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
        (self.partial / _STATE).unlink()


def _new_block() -> dict[str, Any]:
    return {"names": [], "people": [], "sums": [], "failures": []}


def _partial(out: Path, state: dict[str, Any]) -> Path:
    """The folder in which the pack grows, emptied unless what is there is the begin of the same pack."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        if json.loads((partial / _STATE).read_text("utf-8")) == state:
            return partial
    except (OSError, ValueError):
        pass
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / _STATE).write_text(json.dumps(state), "utf-8")
    return partial


def _keep_apart(path: Path, out: Path) -> None:
    source, target = path.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise UsageError("OUT and SOURCE lie in one another", where=out, remedy="choose an OUT beside the source")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("holds other files", where=out, remedy="choose a new or an empty folder as OUT")
    out.parent.mkdir(parents=True, exist_ok=True)


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def _close(out: Path, console: Console) -> int:
    """Say what came of it; 1 when a picture could not be used."""
    pack_ = Pack(out)
    failures = [json.loads(line) for line in (out / FAILURES).read_text("utf-8").splitlines()]
    for row in failures[:_SHOWN]:
        print(f"{row['photo']!r}: {row['reason']}; {row['remedy']}", file=sys.stderr)
    if len(failures) > _SHOWN:
        print(f"... and {len(failures) - _SHOWN} more, in {out / FAILURES}", file=sys.stderr)
    if len(pack_.people) < 2:
        console.warn(f"{out}: holds one person only; training needs at least two")
    alone = f" ({pack_.manifest['alone']} with one crop)" if pack_.manifest["alone"] else ""
    size = f"{pack_.width} x {pack_.height}"
    print(f"{len(pack_)} crops ({size}) of {len(pack_.people)} people{alone}, {len(failures)} failed: {out}")
    return 1 if failures else 0
