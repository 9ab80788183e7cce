"""Show the status of each stage of a recipe: fresh, stale (and why), partial, running or missing."""

from __future__ import annotations

import typer

from sfplus.cli.options import DATA, Overrides, RecipeName, RunName, Small, Workspace
from sfplus.cli.run import apply_small, open_recipe
from sfplus.pipeline.status import step_statuses

app = typer.Typer(add_completion=False)


@app.command()
def status(
    recipe: RecipeName,
    overrides: Overrides = None,
    workspace: Workspace = DATA,
    name: RunName = "",
    small: Small = False,
) -> None:
    """Show the status of each stage of a recipe: fresh, stale (and why), partial, running or missing.

    Example: sfplus status demo
    """
    settings, small_name = apply_small(recipe, overrides, small)
    for row in step_statuses(*open_recipe(recipe, settings, "cpu", workspace, name or small_name)):
        detail = row.reason or (str(row.artefact.folder) if row.artefact else "")
        print(f"{row.step:<18} {row.state:<8} {detail}".rstrip())
