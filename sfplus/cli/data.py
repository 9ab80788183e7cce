"""The commands about data sets: pack, overlap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Exclude = Annotated[
    Path | None, typer.Option("--exclude", help="A file of people to leave out, one a line; # begins a remark.")
]
Split = Annotated[
    str, typer.Option("--split", help="Of files named like train-00000-of-00004, only those of this split.")
]


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder per person, an insightface .rec, WebDataset .tar shards, Parquet (Hugging Face), or a pack.",
        ),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="The pack, a new folder.")] = None,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH: leave crops of another size out.")] = "",
    narrow: Annotated[bool, typer.Option("--narrow", help="Cut 112 x 112 crops to 112 x 96.")] = False,
    exclude: Exclude = None,
    split: Split = "",
    check: Annotated[
        bool, typer.Option("--check", help="Compare the pack SOURCE with its checksums, nothing else.")
    ] = False,
) -> None:
    """Pack aligned crops into one memory-mapped file, so that training decodes nothing; for train.photos in recipes.

    SOURCE is not changed. Pictures that cannot be used are named in OUT/failures.jsonl, and the exit code is 1. An
    interrupted call goes on where it was.

    Example: sfplus align photos crops, then: sfplus pack crops crops.pack

    Example: sfplus pack faces_emore/train.rec emore.pack --narrow --exclude in-lfw.txt
    """
    from sfplus.commands import pack as command
    from sfplus.datasets.folders import read_people

    if check:
        command.check(source)
        return
    if out is None:
        raise typer.BadParameter("is missing", param_hint="OUT")
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if size and not found:
        raise typer.BadParameter("give height x width, such as 112x96", param_hint="--size")
    people = read_people(exclude) if exclude else ()
    wanted = (int(found[1]), int(found[2])) if found else None
    raise typer.Exit(command.pack(source, out, size=wanted, narrow=narrow, exclude=people, split=split))
