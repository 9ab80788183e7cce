"""List, show, copy and check recipes, and explain their keys."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from sfplus.artifacts.context import RunContext
from sfplus.cli.command import App
from sfplus.cli.json_results import KnownRecipe, RecipeCheck, print_result
from sfplus.cli.options import DATA, AsJson, Overrides, RecipeName
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.io.files import check_new, write_atomically
from sfplus.pipeline.hold_out import hold_out
from sfplus.pipeline.plan import check_available_inputs, plan
from sfplus.pipeline.preflight import check_plan
from sfplus.recipes.key_reference import RecipeKey, list_keys, stage_descriptions
from sfplus.recipes.load import about_faces, find_recipe, header, load_recipe, recipe_names
from sfplus.recipes.yaml_file import read_text

app = App(no_args_is_help=True, help="List, show, copy and check recipes, and explain their keys.")


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes.

    Example: sfplus recipes list
    """
    files = {name: find_recipe(name) for name in recipe_names()}
    recipes = [KnownRecipe(n, "faces" if about_faces(file) else "images", header(file)) for n, file in files.items()]
    lines: list[str] = []
    for about in ("faces", "images"):
        rows = [f"  {recipe.name:<28} {recipe.header}" for recipe in recipes if recipe.about == about]
        lines += [f"{about.capitalize()}:", *rows]
    print_result(recipes, lines, as_json)


@app.command()
def show(recipe: RecipeName) -> None:
    """Print a recipe.

    Example: sfplus recipes show demo
    """
    print(read_text(find_recipe(recipe)), end="")


@app.command()
def copy(
    recipe: RecipeName, file: Annotated[Path, typer.Argument(metavar="OUT", help="The new file, such as mine.yaml.")]
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
def check(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe, its networks, and the photos that are there already; no stage is run.

    Code that the recipe names by its import path is imported and tried: check a recipe of somebody else's only if you
    trust this code.

    Example: sfplus recipes check mine.yaml train.photos=photos
    """
    path = find_recipe(recipe)
    context = RunContext(DATA, Console())
    with tempfile.TemporaryDirectory() as folder:  # of the pairs of people who are held out
        steps = plan(hold_out(load_recipe(path, overrides or []), Path(folder), context))
        missing = check_available_inputs(steps, DATA, context)
    check_plan(steps)
    stages = [step.name for step in steps]
    lines = [f"{path}: valid; {' -> '.join(stages)}", *[f"to run it: {missing}"] * bool(missing)]
    print_result(RecipeCheck(path, stages, missing), lines, as_json)


@app.command()
def keys(
    key: Annotated[
        str, typer.Argument(metavar="STAGE[.KEY]", help="A stage, or a key of it.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Explain the keys of recipes: type, default, meaning and source.

    Without a stage, the stages are listed; with --json, all keys of all stages.

    Example: sfplus recipes keys train

    Example: sfplus recipes keys train.head.m
    """
    entries = list_keys(key)
    if key:
        lines = [line for entry in entries for line in _describe_key(entry)]
    else:
        lines = [f"{name:<10} {text}" for name, text in stage_descriptions().items()]
        lines.append("the keys of a stage: sfplus recipes keys STAGE")
    print_result(entries, lines, as_json)


def _describe_key(entry: RecipeKey) -> list[str]:
    head = f"  (head: {entry.head})" if entry.head else ""
    text = textwrap.fill(entry.description, _width(), initial_indent="    ", subsequent_indent="    ")
    return [f"{entry.name}{head}  {entry.type}, default {entry.default}", text]


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120)
