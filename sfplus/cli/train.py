"""Train as a recipe says, with the stages before it if they are stale."""

from __future__ import annotations

import typer

from sfplus.cli.options import DATA, Device, Overrides, RecipeName, Workspace
from sfplus.cli.run import run_recipe

app = typer.Typer(add_completion=False)


@app.command()
def train(
    recipe: RecipeName, overrides: Overrides = None, device: Device = "auto", workspace: Workspace = DATA
) -> None:
    """Train as a recipe says, with the stages before it if they are stale.

    Example: sfplus train sphereface-plus-m4 train.photos=my/photos
    """
    run_recipe(recipe, overrides or [], "train", device, workspace)
