"""Pack aligned crops into one memory-mapped file, so that training decodes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from sfplus.alignment import narrow_crop
from sfplus.cli.command import App
from sfplus.cli.options import PeopleFolders
from sfplus.datasets.build_pack import build_pack
from sfplus.datasets.formats.pack import Pack
from sfplus.datasets.identities import read_person_list
from sfplus.datasets.records import PeopleRule
from sfplus.io.console import Console, log_failures, quantity
from sfplus.io.files import check_input
from sfplus.io.loggers import get_logger
from sfplus.io.tables import FAILURES, Failure, read_json_lines

_log = get_logger(__name__)

app = App()
Exclude = Annotated[
    Path | None,
    typer.Option(
        "--exclude",
        help="A file of people to leave out, one per line; # and a space start a comment.",
    ),
]
Split = Annotated[str, typer.Option("--split", help="Use only this split of files named like train-00000-of-00004.")]


def pack(
    path: Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    narrow: bool = False,
    exclude: Collection[str] = (),
    split: str = "",
    people: PeopleRule = "path",
) -> int:
    """Build a pack and print a summary.

    Args and exceptions are those of `build_pack`, except that `narrow` cuts 112x112 crops to the 112x96 of the
    SphereFace networks.

    Returns:
        The exit code: 1 if an image could not be used (`failures.jsonl` of the pack gives the reasons), else 0.
    """
    packed = build_pack(
        path,
        out,
        Console(),
        size=size,
        narrow=narrow_crop if narrow else None,
        exclude=exclude,
        split=split,
        people=people,
    )
    failures = read_json_lines(out / FAILURES, Failure)
    log_failures(failures, out / FAILURES)
    if len(packed.people) < 2:
        _log.warning("%s: contains only one person; training needs at least two", out)
    single = f" ({packed.manifest['alone']} with one crop)" if packed.manifest["alone"] else ""
    crops = f"{quantity(len(packed), 'crop')} ({packed.height}x{packed.width})"
    print(f"{crops} of {quantity(len(packed.people), 'person', 'people')}{single}, {len(failures)} failed: {out}")
    return 1 if failures else 0


def check(folder: Path) -> None:
    """Compare all files of a pack with their checksums, and print the result.

    Raises:
        DatasetError: If a file is missing or changed; the message names the block and the crop.
    """
    packed = Pack(folder)
    with Console().progress("check", resumed=False) as progress:
        progress.start(len(packed), "crops")
        for count in packed.check():
            progress.advance(count)
    print(f"{folder}: intact, {quantity(len(packed), 'crop')} of {quantity(len(packed.people), 'person', 'people')}")


@app.command("pack")
def pack_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder per person, an insightface .rec file, WebDataset .tar shards, Parquet files, or a pack.",
        ),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="The pack to write, a new folder.")] = None,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH: leave out crops of other sizes.")] = "",
    narrow: Annotated[bool, typer.Option("--narrow", help="Cut 112x112 crops to 112x96.")] = False,
    exclude: Exclude = None,
    split: Split = "",
    people: PeopleFolders = "path",
    check_only: Annotated[
        bool, typer.Option("--check", help="Only compare the pack SOURCE with its checksums.")
    ] = False,
) -> None:
    """Pack aligned crops into one memory-mapped file for train.photos in recipes, so that training decodes nothing.

    SOURCE is not changed. If images cannot be used, OUT/failures.jsonl lists them and the exit code is 1. An
    interrupted call continues where it stopped.

    Example: sfplus align photos crops, then: sfplus pack crops crops.pack

    Example: sfplus pack faces_emore/train.rec emore.pack --narrow --exclude in-lfw.txt
    """
    for path in filter(None, (source, exclude)):
        check_input(path, "file" if path == exclude else None)
    if check_only:
        check(source)
        return
    if out is None:
        raise typer.BadParameter("is missing", param_hint="OUT")
    sides = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if size and not sides:
        raise typer.BadParameter("give height x width, such as 112x96", param_hint="--size")
    excluded = read_person_list(exclude) if exclude else ()
    crop_size = (int(sides[1]), int(sides[2])) if sides else None
    raise typer.Exit(pack(source, out, size=crop_size, narrow=narrow, exclude=excluded, split=split, people=people))
