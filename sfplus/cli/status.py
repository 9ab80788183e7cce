"""Show the status of each stage of a recipe: fresh, damaged, stale (and why), partial, running or missing."""

from __future__ import annotations

from typing import Annotated

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
    check: Annotated[bool, typer.Option("--check", help="Compare the content of all files of the cache.")] = False,
) -> None:
    """Show the status of each stage of a recipe: fresh, damaged, stale (and why), partial, running or missing.

    Example: sfplus status demo
    """
    settings, small_name = apply_small(recipe, overrides, small)
    steps, context, record = open_recipe(recipe, settings, "cpu", workspace, name or small_name)
    for row in step_statuses(steps, context, record, check=check):
        detail = row.reason or (str(row.artefact.folder) if row.artefact else "")
        print(f"{row.step:<18} {row.state:<8} {detail}".rstrip())
