"""The commands for data sets: pack and overlap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.verify import Device, ModelName

app = typer.Typer()

Exclude = Annotated[
    Path | None,
    typer.Option(
        "--exclude",
        help="A file of people to leave out, one per line; # and a space start a comment.",
    ),
]
Split = Annotated[str, typer.Option("--split", help="Use only this split of files named like train-00000-of-00004.")]


@app.command()
def pack(
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
    check: Annotated[bool, typer.Option("--check", help="Only compare the pack SOURCE with its checksums.")] = False,
) -> None:
    """Pack aligned crops into one memory-mapped file for train.photos in recipes, so that training decodes nothing.

    SOURCE is not changed. If images cannot be used, OUT/failures.jsonl lists them and the exit code is 1. An
    interrupted call continues where it stopped.

    Example: sfplus align photos crops, then: sfplus pack crops crops.pack

    Example: sfplus pack faces_emore/train.rec emore.pack --narrow --exclude in-lfw.txt
    """
    from sfplus.cli import pack as command
    from sfplus.datasets.identities import read_person_list

    if check:
        command.check(source)
        return
    if out is None:
        raise typer.BadParameter("is missing", param_hint="OUT")
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if size and not match:
        raise typer.BadParameter("give height x width, such as 112x96", param_hint="--size")
    people = read_person_list(exclude) if exclude else ()
    height_width = (int(match[1]), int(match[2])) if match else None
    raise typer.Exit(command.pack(source, out, size=height_width, narrow=narrow, exclude=people, split=split))


@app.command()
def overlap(
    train: Annotated[
        Path, typer.Argument(metavar="TRAIN", help="The training set: as for sfplus pack, or a file of features.")
    ],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="The test set, in one of the same forms.")],
    model: ModelName = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write a list of the people for --exclude and exclude:.",
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw the pairs side by side into a .png file.")] = None,
    crops: Annotated[bool, typer.Option("--crops", help="The images are aligned crops.")] = False,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Use only the first images of each person.")] = 8,
    false_alarms: Annotated[
        float,
        typer.Option("--false-alarms", min=0, help="Expected number of wrong matches for one person of TEST."),
    ] = 0.01,
    device: Device = "auto",
) -> None:
    """Find people of a test set in a training set, by their names and by their faces.

    Check the pairs before you use the list: a small model misses people and matches different people.

    Example: sfplus overlap my/photos data/lfw --out in-lfw.txt --sheet in-lfw.png, then:
    sfplus run mine.yaml train.exclude=in-lfw.txt
    """
    from sfplus.cli import overlap as command
    from sfplus.io.resources import DEFAULT_MODEL

    command.overlap(
        train, test, model or DEFAULT_MODEL, out, sheet,
        crops=crops, images_per_person=pictures, false_alarms=false_alarms, device=device,
    )  # fmt: skip
