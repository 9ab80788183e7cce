"""Download Labeled Faces in the Wild (233 MB), check it and unpack it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.datasets.lfw import fetch_lfw

app = App()


@app.command()
def lfw(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the photos and pairs.txt.")] = Path(
        "data/lfw"
    ),
) -> None:
    """Download Labeled Faces in the Wild (233 MB), check it and unpack it.

    Example: sfplus lfw data/lfw
    """
    print(f"LFW is in {fetch_lfw(folder)}")
