"""Save the model of a recipe with its threshold, for compare, embed and verify --model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.cli.options import DATA, Device, Overrides, RecipeName, Workspace
from sfplus.cli.run import run_recipe
from sfplus.io.files import check_new
from sfplus.pipeline.plan import plan
from sfplus.recipes.load import find_recipe, load_recipe
from sfplus.recipes.steps import UserCode
from sfplus.weights.find_model import find_model

app = App()


@app.command()
def export(
    recipe: RecipeName,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the model; it must not exist.")],
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
    overrides: Overrides = None,
    device: Device = "auto",
    workspace: Workspace = DATA,
) -> None:
    """Save the model of a recipe with its threshold, for compare, embed and verify --model.

    Example: sfplus export demo my-model
    """
    from sfplus.pipeline.export import export_model  # imports torch, which the help need not wait for

    check_new(folder)
    artefacts = run_recipe(recipe, overrides or [], "verify", device, workspace)
    settings = load_recipe(find_recipe(recipe), overrides or [])
    model = settings.embed.model
    code = (step.inputs.get("network") for step in plan(settings) if step.name.startswith("embed/"))
    network = next((reference.path for reference in code if isinstance(reference, UserCode)), "")
    export_model(artefacts, find_model(model) if model else None, folder, half, network)
    print(f"model: {folder}")
