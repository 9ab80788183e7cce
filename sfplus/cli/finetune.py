"""Fine-tune as a recipe says (SphereFace+), with the stages before it if they are stale."""

from __future__ import annotations

import typer

from sfplus.cli.options import DATA, Device, Overrides, RecipeName, Workspace
from sfplus.cli.run import run_recipe

app = typer.Typer(add_completion=False)


@app.command()
def finetune(
    recipe: RecipeName, overrides: Overrides = None, device: Device = "auto", workspace: Workspace = DATA
) -> None:
    """Fine-tune as a recipe says (SphereFace+), with the stages before it if they are stale.

    Example: sfplus finetune demo finetune.energy.weight=0
    """
    run_recipe(recipe, overrides or [], "finetune", device, workspace)
