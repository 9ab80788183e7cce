"""Pack aligned crops into one memory-mapped file, so that training decodes nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import filelock
import typer

from sfplus.datasets.collections import open_source, stamp
from sfplus.datasets.folders import read_people
from sfplus.datasets.pack import MANIFEST, Pack
from sfplus.datasets.pack_writer import JOURNAL, STATE, Writer
from sfplus.errors import DatasetError, SfplusError, UsageError
from sfplus.io.console import Console, print_failures
from sfplus.io.files import check_folder, paths_overlap, write_atomically
from sfplus.io.tables import FAILURES, read_json_lines

app = typer.Typer()


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
        UsageError: OUT or `OUT.partial` holds other files or lies in the source, or the disk is too small.
    """
    _keep_apart(path, out)
    console = Console()
    source = open_source(path, split)
    for remark in source.remarks:
        console.warn(f"{path}: {remark}")
    options = {"size": list(size) if size else None, "narrow": narrow, "exclude": sorted(exclude), "split": split}
    state = {"source": stamp(source), "options": options, "version": 1}
    out.parent.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        if not (out / MANIFEST).is_file():
            partial = _partial(out, state)
            if not _is_finished(partial, state):
                with console.progress("pack", resumed=(partial / JOURNAL).exists()) as step, _tidy(partial):
                    Writer(source, partial, state, narrow, set(exclude)).write(step)
            for name in (STATE, JOURNAL):
                (partial / name).unlink(missing_ok=True)
            if out.is_dir():
                out.rmdir()
            partial.replace(out)
        elif Pack(out).manifest.get("state") == state:
            console.print_fresh("pack")
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
            try:
                yield
            finally:
                if not _partial_of(out).exists():  # what follows finds a finished pack, or begins anew
                    Path(lock.lock_file).unlink(missing_ok=True)
    except filelock.Timeout:
        raise UsageError("another run is packing into it", where=out, remedy="wait for it") from None


@contextmanager
def _tidy(partial: Path) -> Iterator[None]:
    """Leave nothing of a call that failed before a block of crops was safe; there is nothing to go on from."""
    try:
        yield
    except SfplusError:
        if not any(block["names"] for block in read_json_lines(partial / JOURNAL)):
            shutil.rmtree(partial)
        raise


def check(folder: Path) -> None:
    """Compare all of a pack with its checksums, and say so.

    Raises:
        DatasetError: a file is missing or changed; block and crop are named.
    """
    opened = Pack(folder)
    with Console().progress("check", resumed=False) as step:
        step.start(len(opened), "crops")
        for count in opened.check():
            step.advance(count)
    print(f"{folder}: whole, {len(opened)} crops of {len(opened.people)} people")


def _partial(out: Path, state: dict[str, Any]) -> Path:
    """The folder in which the pack grows, emptied unless what is there is the same pack.

    Raises:
        UsageError: it holds what no call of this began.
    """
    partial = _partial_of(out)
    if _is_finished(partial, state):
        return partial
    try:
        found = json.loads((partial / STATE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if found == state:
        return partial
    if isinstance(found, dict) and found.keys() == state.keys() and not partial.is_symlink():
        shutil.rmtree(partial)
    elif partial.is_symlink() or (partial.exists() and (not partial.is_dir() or any(partial.iterdir()))):
        raise UsageError("holds other files", where=partial, remedy="choose another OUT, or move this away")
    partial.mkdir(parents=True, exist_ok=True)
    write_atomically(partial / STATE, json.dumps(state).encode())
    return partial


def _partial_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _is_finished(partial: Path, state: dict[str, Any]) -> bool:
    """Whether a call was killed when all that was left to do was to move its pack into place."""
    try:
        return Pack(partial).manifest.get("state") == state
    except DatasetError:
        return False


def _keep_apart(path: Path, out: Path) -> None:
    if out.name in ("", ".."):
        raise UsageError("has no name of its own", where=out, remedy="give a new folder")
    check_folder(out.parent)
    if paths_overlap(path, out) or paths_overlap(path, _partial_of(out)):
        reason = "OUT (or OUT.partial, where it grows) and SOURCE lie in one another"
        raise UsageError(reason, where=out, remedy="choose an OUT beside the source")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("holds other files", where=out, remedy="choose a new or an empty folder as OUT")


def _close(out: Path, console: Console) -> int:
    """Say what came of it; 1 when a picture could not be used."""
    pack_ = Pack(out)
    failures = read_json_lines(out / FAILURES)
    print_failures(failures, out / FAILURES)
    if len(pack_.people) < 2:
        console.warn(f"{out}: holds one person only; training needs at least two")
    alone = f" ({pack_.manifest['alone']} with one crop)" if pack_.manifest["alone"] else ""
    size = f"{pack_.width} x {pack_.height}"
    print(f"{len(pack_)} crops ({size}) of {len(pack_.people)} people{alone}, {len(failures)} failed: {out}")
    return 1 if failures else 0


@app.command("pack")
def pack_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder per person, an insightface .rec, WebDataset .tar shards, Parquet (Hugging Face), or a pack.",
        ),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="The pack, a new folder.")] = None,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH: leave out crops of another size.")] = "",
    narrow: Annotated[bool, typer.Option("--narrow", help="Cut 112x112 crops to 112x96.")] = False,
    exclude: Annotated[
        Path | None,
        typer.Option("--exclude", help="A file of people to leave out, one per line; # and a space start a comment."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Of files named like train-00000-of-00004, only those of this split.")
    ] = "",
    check_only: Annotated[
        bool, typer.Option("--check", help="Only compare the pack SOURCE with its checksums.")
    ] = False,
) -> None:
    """Pack aligned crops into one memory-mapped file, so that training decodes nothing; for train.photos in recipes.

    SOURCE is not changed. Images that cannot be used are listed in OUT/failures.jsonl, and the exit code is 1. An
    interrupted call is resumed by the same command.

    Example: sfplus align photos crops, then: sfplus pack crops crops.pack

    Example: sfplus pack faces_emore/train.rec emore.pack --narrow --exclude in-lfw.txt
    """
    if check_only:
        check(source)
        return
    if out is None:
        raise typer.BadParameter("is missing", param_hint="OUT")
    sides = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if size and not sides:
        raise typer.BadParameter("give height x width, such as 112x96", param_hint="--size")
    people = read_people(exclude) if exclude else ()
    crop_size = (int(sides[1]), int(sides[2])) if sides else None
    raise typer.Exit(pack(source, out, size=crop_size, narrow=narrow, exclude=people, split=split))
