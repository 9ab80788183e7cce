"""Draw a list of pairs from any folder of people, and hold these people out of training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sfplus.datasets.pairs import write_plain
from sfplus.datasets.pairs.held_out import choose_people, draw_as_many, photos_by_person
from sfplus.images import list_photos
from sfplus.io.console import quantity
from sfplus.io.files import check_new, write_atomically

app = typer.Typer(add_completion=False)


@app.command()
def pairs(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder with a folder of photos per person.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new list, such as pairs.csv.")],
    people: Annotated[int, typer.Option(min=0, help="Draw from this many people, chosen at random; 0: all.")] = 0,
    held_out: Annotated[
        Path | None, typer.Option(help="Also write the names of these people, for train.exclude.", show_default=False)
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds; each person is in one of them.")] = 10,
    per_fold: Annotated[
        int, typer.Option(min=0, help="Pairs of each kind in a fold; 0: as many as there can be, at most 300.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Draw pairs of the same person and of different people by the rules of LFW.

    Half of the pairs of each fold are of the same person. With --people and --held-out, a model can be trained on the
    other people of the same folder and verified on these.

    Example: sfplus pairs photos pairs.csv --people 20 --held-out held-out.txt
    """
    for output in filter(None, (file, held_out)):
        check_new(output)
    by_person = photos_by_person(list_photos(photos))
    chosen = choose_people(by_person, people, seed, photos) if people else sorted(by_person)
    drawn = draw_as_many([photo for person in chosen for photo in by_person[person]], folds, per_fold, seed, photos)
    write_plain(file, drawn)
    size = len(drawn) // folds
    print(f"{file}: {quantity(len(drawn), 'pair')} of {quantity(len(chosen), 'person', 'people')}, "
          f"{quantity(folds, 'fold')} of {size}, seed {seed}")  # fmt: skip
    verify = f"verify.photos={shlex.quote(str(photos))} verify.pairs={shlex.quote(str(file))}"
    if held_out:
        write_atomically(held_out, "".join(f"{person}\n" for person in chosen).encode())
        exclude = f"train.photos={shlex.quote(str(photos))} train.exclude={shlex.quote(str(held_out))}"
        print(f"train on the others, verify on these: sfplus run RECIPE {exclude} {verify}")
