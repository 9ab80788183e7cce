"""The commands about data sets: pack, overlap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.verify import Device, ModelName

app = typer.Typer()

Exclude = Annotated[
    Path | None,
    typer.Option("--exclude", help="A file of people to leave out, one a line; # and a space begin a remark."),
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
    from sfplus.cli import pack as command
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


@app.command()
def overlap(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The training set: as for sfplus pack, or features.")],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="The test set, likewise.")],
    model: ModelName = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="The list of people to write, for --exclude and exclude:.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="A picture of the pairs, .png, for human eyes.")] = None,
    crops: Annotated[bool, typer.Option("--crops", help="The pictures are crops that are aligned already.")] = False,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Of each person, the first ones.")] = 8,
    false_alarms: Annotated[
        float, typer.Option("--false-alarms", min=0, help="Wrongly suspected people that a person of TEST may cost.")
    ] = 0.01,
    device: Device = "auto",
) -> None:
    """Find people of a test set in a training set, by their names and by their faces.

    Look at the pairs before you trust them: a small model misses people and suspects others.

    Example: sfplus overlap my/photos data/lfw --out in-lfw.txt --sheet in-lfw.png, then:
    sfplus run mine.yaml train.exclude=in-lfw.txt
    """
    from sfplus.cli import overlap as command
    from sfplus.io.resources import DEFAULT_MODEL

    command.overlap(
        train, test, model or DEFAULT_MODEL, out, sheet,
        crops=crops, pictures=pictures, false_alarms=false_alarms, device=device,
    )  # fmt: skip
