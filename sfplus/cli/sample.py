"""Draw portraits of people who do not exist, with their true landmarks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.datasets.portraits import write_portraits
from sfplus.errors import UsageError
from sfplus.images import CACHE
from sfplus.io.console import Console, quantity

app = App()


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the photos, a folder per person.")],
    people: Annotated[int, typer.Option(min=1, help="Number of people.")] = 60,
    photos: Annotated[int, typer.Option(min=1, help="Photos of each person.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; another seed draws other people.")] = 0,
) -> None:
    """Draw portraits of people who do not exist, with their true landmarks (landmarks.csv).

    Example: sfplus sample drawn --people 60 --photos 10 --seed 0
    """
    _check_folder(folder)
    with Console().progress("sample", resumed=False) as progress:
        progress.start(people * photos, "photos")
        rows = write_portraits(folder, people, photos, seed, on_photo=progress.advance)
    print(f"{quantity(len(rows), 'photo')} of {quantity(people, 'drawn person', 'drawn people')} in {folder}")


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other files than portraits, such as the results of `align`, which they could replace.

    Raises:
        UsageError: If there are any; hidden files do not count.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if CACHE in names or not all(re.fullmatch(r"\..*|person_\d+|landmarks\.csv", name) for name in names):
        raise UsageError("contains other files", where=folder, remedy="choose a new or an empty folder as OUT")
