"""The commands `sfplus recipes ...` and `sfplus models ...`, as thin as those of cli.py."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

recipes_app = typer.Typer(no_args_is_help=True, help="List, show, copy and check recipes.")
models_app = typer.Typer(no_args_is_help=True, help="List, get and check models that others trained.")

Name = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see: sfplus recipes list) or a YAML file.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example finetune.energy.power=0")
]
ZooName = Annotated[str, typer.Argument(metavar="NAME", help="See: sfplus models list")]


@recipes_app.command("list")
def recipes_list() -> None:
    """List the shipped recipes."""
    from sfplus.recipes.load import about_faces, find_recipe, header, recipe_names

    for title, faces in (("Faces:", True), ("Pictures:", False)):
        names = [name for name in recipe_names() if about_faces(find_recipe(name)) is faces]
        print("\n".join([title, *(f"  {name:<28} {header(find_recipe(name))}" for name in names)]))


@recipes_app.command("show")
def recipes_show(recipe: Name) -> None:
    """Print a recipe, to read or to start one's own from."""
    from sfplus.errors import RecipeError
    from sfplus.recipes.load import find_recipe

    path = find_recipe(recipe)
    try:
        print(path.read_text("utf-8"), end="")
    except UnicodeDecodeError:
        raise RecipeError("is not UTF-8", where=path, remedy="save it as UTF-8") from None


@recipes_app.command("copy")
def recipes_copy(
    recipe: Name, file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, such as mine.yaml.")]
) -> None:
    """Copy a recipe, to start one's own from.

    Example: sfplus recipes copy demo mine.yaml
    """
    from sfplus.errors import UsageError
    from sfplus.recipes.load import find_recipe

    text = find_recipe(recipe).read_bytes()
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError("is no name of a recipe", where=file, remedy="end it in .yaml")
    try:
        with file.open("xb") as target:
            target.write(text)
    except FileExistsError:
        raise UsageError("is there already", where=file, remedy="choose another name") from None
    except FileNotFoundError:
        raise UsageError("there is no such folder", where=file.parent, remedy="make it first") from None
    print(f"change it, then: sfplus run {shlex.quote(str(file))}")


@recipes_app.command("check")
def recipes_check(recipe: Name, overrides: Overrides = None) -> None:
    """Check that a recipe is right; nothing is run."""
    from sfplus.pipeline import plan as chain
    from sfplus.recipes.load import find_recipe, load_recipe

    path = find_recipe(recipe)
    steps = chain.plan(load_recipe(path, overrides or []))
    print(f"{path}: right; {' -> '.join(step.name for step in steps)}")


@models_app.command("list")
def models_list() -> None:
    """List the models that exist: how they stand here, accuracy on LFW as published, what they are."""
    from sfplus.weights.zoo import status, zoo

    for name, entry in zoo().items():
        print(f"{name:<22} {status(name):<12} {entry.lfw:5.2f} %  {entry.what}")


@models_app.command("info")
def models_info(name: ZooName) -> None:
    """Say all that is known of a model: accuracy, data, licence, files and their SHA-256, where it is."""
    from sfplus.weights.zoo import describe

    print(describe(name))


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See: sfplus models list; or hf:owner/name[@revision]")],
    file: Annotated[Path | None, typer.Option("--from", help="The file, where you have got it by hand.")] = None,
) -> None:
    """Get a model ready for --model NAME: downloaded, or from a file, checked, converted.

    Where only a person can get the file, this says where it is and how to go on, and the exit code is 1.

    Example: sfplus models fetch sphereface20 --from sphereface_model.caffemodel
    """
    from sfplus.io.resources import HUB
    from sfplus.weights.find_model import find_model
    from sfplus.weights.zoo import fetch

    if name.startswith(HUB):
        print(f"{name}: {find_model(name)}")
        return
    text, ready = fetch(name, file)
    print(text)
    raise typer.Exit(not ready)


@models_app.command("verify")
def models_verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file, or a folder with a model.")],
    name: Annotated[str, typer.Option("--name", help="Which model it should be, where its name does not say it.")] = "",
) -> None:
    """Check a file's SHA-256 against the model that it is said to be.

    Where no SHA-256 is published, the first sound file is remembered, and another one is refused from then on.

    Example: sfplus models verify sphereface_model.caffemodel --name sphereface20
    """
    from sfplus.weights.zoo import verify

    print(verify(file, name))
