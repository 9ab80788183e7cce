"""Build packs from photo collections, one process at a time, resumable and atomic."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from sfplus.datasets.collections import open_collection, stat_digest
from sfplus.datasets.formats.pack import MANIFEST, Pack
from sfplus.datasets.pack_journal import JOURNAL, list_blocks
from sfplus.datasets.pack_writer import STATE, Narrow, PackWriter, State
from sfplus.datasets.records import PeopleRule
from sfplus.errors import DatasetError, SfplusError, UsageError
from sfplus.io.console import Console
from sfplus.io.files import check_folder, paths_overlap, write_json
from sfplus.io.json_files import read_json
from sfplus.io.locks import file_lock
from sfplus.io.loggers import get_logger

_log = get_logger(__name__)


def build_pack(
    path: Path,
    out: Path,
    console: Console,
    *,
    size: tuple[int, int] | None = None,
    narrow: Narrow | None = None,
    exclude: Collection[str] = (),
    split: str = "",
    people: PeopleRule = "path",
) -> Pack:
    """Build a pack from the crops of a collection, which is not changed.

    The pack is written to `OUT.partial` and moved to OUT when it is complete. A call that was interrupted at any
    moment, even by `kill -9`, continues after its last complete block if the collection and the options are the same,
    and starts again otherwise. The pixels, tables and digests are the same with and without interruptions.

    Args:
        path: the collection; see `open_collection`.
        out: the folder of the pack; it must be new, empty or the same pack, which is kept.
        console: prints the progress.
        size: height and width; crops of other sizes are left out. None: all crops must have the size of the first.
        narrow: cuts the crops, as `alignment.narrow_crop` does; None: crops are packed as they are.
        exclude: people to leave out.
        split: of shards named like `train-00000-of-00004.parquet`, use only those of this split.
        people: which of nested folders is the person, see `person_from_path`.

    Raises:
        DatasetError: If the collection cannot be read, contains no usable crop, or contains crops of several sizes.
        UsageError: If OUT or `OUT.partial` contains other files or overlaps the collection, or another process is
            building this pack.
        SfplusError: If the disk is too small.
    """
    _check_paths(path, out)
    collection = open_collection(path, split, people)
    if collection.summary:
        _log.info("%s: %s", path, collection.summary)
    for warning in collection.warnings:
        _log.warning("%s: %s", path, warning)
    options: dict[str, Any] = {
        "size": list(size) if size else None, "narrow": narrow is not None, "exclude": sorted(exclude), "split": split,
    }  # fmt: skip
    if people != "path":  # the default is left out, as in earlier packs
        options["people"] = people
    state: State = {"source": stat_digest(collection), "options": options, "version": 1}
    out.parent.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        if not (out / MANIFEST).is_file():
            partial = _prepare_partial(out, state)
            if not _is_finished(partial, state):
                writer = PackWriter(collection, partial, state, narrow, set(exclude))
                with (
                    _remove_if_empty(partial, len(collection)),
                    console.progress("pack", (partial / JOURNAL).exists()) as progress,
                ):
                    writer.write(progress)
            _move_into_place(partial, out)
        elif Pack(out).manifest["state"] == state:
            console.print_fresh("pack")
        else:
            reason = "is a pack of another source, of this source before it changed, or with other options"
            raise UsageError(reason, where=out, remedy="choose a new OUT, or delete this one")
    return Pack(out)


def _check_paths(path: Path, out: Path) -> None:
    if out.name in ("", ".."):
        raise UsageError("does not name a folder", where=out, remedy="give a new folder")
    check_folder(out.parent)
    if paths_overlap(path, out) or paths_overlap(path, _partial_folder(out)):
        reason = "OUT (or OUT.partial, where it is written) and SOURCE overlap"
        raise UsageError(reason, where=out, remedy="choose an OUT that does not contain SOURCE and is not inside it")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("contains other files", where=out, remedy="choose a new or an empty folder as OUT")


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Exclude other processes that build the same pack.

    Raises:
        UsageError: If another process is building it.
    """
    lock = file_lock(out.with_name(f".{out.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            try:
                yield
            finally:
                if not _partial_folder(out).exists():  # a process that waits finds a finished pack, or starts again
                    Path(lock.lock_file).unlink(missing_ok=True)
    except filelock.Timeout:
        raise UsageError("another run is writing this pack", where=out, remedy="wait for it") from None


def _partial_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _prepare_partial(out: Path, state: State) -> Path:
    """Return the folder in which the pack is written; it is emptied unless it contains the beginning of this pack.

    Raises:
        UsageError: If it contains files that are not from an interrupted call.
    """
    partial = _partial_folder(out)
    if _is_finished(partial, state):
        return partial
    try:
        earlier = read_json(partial / STATE, State, remedy="run again")
    except SfplusError:
        earlier = None
    if earlier == state:
        return partial
    if earlier and not partial.is_symlink():
        shutil.rmtree(partial)
    elif partial.is_symlink() or (partial.exists() and (not partial.is_dir() or any(partial.iterdir()))):
        raise UsageError("contains other files", where=partial, remedy="choose another OUT, or move this away")
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / STATE, state)
    return partial


def _is_finished(partial: Path, state: State) -> bool:
    """Return True if an interrupted call completed this pack and only had to move it into place."""
    try:
        return Pack(partial).manifest["state"] == state
    except DatasetError:
        return False


@contextmanager
def _remove_if_empty(partial: Path, count: int) -> Iterator[None]:
    """Delete the partial folder after an error if no block of crops was finished, since there is nothing to resume."""
    try:
        yield
    except SfplusError:
        if not any(block["names"] for block in list_blocks(partial, count)):
            shutil.rmtree(partial)
        raise


def _move_into_place(partial: Path, out: Path) -> None:
    for name in (STATE, JOURNAL):
        (partial / name).unlink(missing_ok=True)
    if out.is_dir():
        out.rmdir()  # it is empty
    partial.replace(out)
