"""List, show, copy and check recipes, and explain their keys."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.options import DATA, Overrides, RecipeName
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.io.files import check_new, write_atomically
from sfplus.pipeline.hold_out import hold_out
from sfplus.pipeline.plan import check_available_inputs, plan
from sfplus.pipeline.preflight import check_plan
from sfplus.recipes.key_reference import list_keys, stage_descriptions
from sfplus.recipes.load import about_faces, find_recipe, header, load_recipe, recipe_names
from sfplus.recipes.yaml_file import read_text

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, show, copy and check recipes, and explain their keys."
)


@app.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    for title, faces in (("Faces:", True), ("Images:", False)):
        names = [name for name in recipe_names() if about_faces(find_recipe(name)) is faces]
        print("\n".join([title, *(f"  {name:<28} {header(find_recipe(name))}" for name in names)]))


@app.command()
def show(recipe: RecipeName) -> None:
    """Print a recipe."""
    print(read_text(find_recipe(recipe)), end="")


@app.command()
def copy(
    recipe: RecipeName, file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, such as mine.yaml.")]
) -> None:
    """Copy a recipe, as the start of your own.

    Example: sfplus recipes copy demo mine.yaml
    """
    text = read_text(find_recipe(recipe))
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError("is not the name of a recipe", where=file, remedy="end it in .yaml")
    check_new(file)
    if not file.parent.is_dir():
        raise UsageError("there is no such folder", where=file.parent, remedy="create it first")
    write_atomically(file, text.encode())
    print(f"change it, then: sfplus run {shlex.quote(str(file))}")


@app.command()
def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe, its networks, and the photos that are there already; no stage is run.

    Code that the recipe names by its import path is imported and tried: check a recipe of somebody else's only if you
    trust this code.

    Example: sfplus recipes check mine.yaml train.photos=photos
    """
    path = find_recipe(recipe)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:  # of the pairs of people who are held out
        steps = plan(hold_out(load_recipe(path, overrides or []), Path(folder), console))
        missing = check_available_inputs(steps, DATA, console)
    check_plan(steps)
    print(f"{path}: valid; {' -> '.join(step.name for step in steps)}")
    if missing:
        print(f"to run it: {missing}")


@app.command()
def keys(
    key: Annotated[
        str, typer.Argument(metavar="[STAGE[.KEY]]", help="A stage, or a key of it.", show_default=False)
    ] = "",
) -> None:
    """Explain the keys of recipes: type, default, meaning and source.

    Examples: sfplus recipes keys train;  sfplus recipes keys train.head.m
    """
    if not key:
        print("\n".join(f"{name:<10} {text}" for name, text in stage_descriptions().items()))
        print("the keys of a stage: sfplus recipes keys STAGE")
        return
    for entry in list_keys(key):
        head = f"  (head: {entry.head})" if entry.head else ""
        print(f"{entry.name}{head}  {entry.type}, default {entry.default}")
        print(textwrap.fill(entry.description, _width(), initial_indent="    ", subsequent_indent="    "))


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120)
