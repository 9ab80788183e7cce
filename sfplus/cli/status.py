"""Show the status of each stage of a recipe: fresh, damaged, stale (and why), partial, running or missing."""

from __future__ import annotations

from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.cli.json_results import StageStatus, print_result
from sfplus.cli.options import DATA, AsJson, Overrides, RecipeName, RunName, Small, Workspace
from sfplus.cli.run import apply_small, open_recipe
from sfplus.pipeline.status import step_statuses

app = App()


@app.command()
def status(
    recipe: RecipeName,
    overrides: Overrides = None,
    workspace: Workspace = DATA,
    name: RunName = "",
    small: Small = False,
    check: Annotated[bool, typer.Option("--check", help="Compare the content of all files of the cache.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the status of each stage of a recipe: fresh, damaged, stale (and why), partial, running or missing.

    Example: sfplus status demo
    """
    settings, small_name = apply_small(recipe, overrides, small)
    steps, context, record = open_recipe(recipe, settings, "cpu", workspace, name or small_name)
    rows = [
        StageStatus(row.step, row.state, row.reason, row.artefact.folder if row.artefact else None)
        for row in step_statuses(steps, context, record, check=check)
    ]
    width = max([18, *(len(row.stage) for row in rows)])
    lines = (f"{row.stage:<{width}} {row.state:<8} {row.reason or row.folder or ''}".rstrip() for row in rows)
    print_result(rows, lines, as_json)
