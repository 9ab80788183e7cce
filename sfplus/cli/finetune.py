"""Fine-tune as a recipe says (SphereFace+), with the stages before it if they are stale."""

from __future__ import annotations

from sfplus.cli.command import App
from sfplus.cli.options import (
    DATA,
    AsJson,
    Device,
    Overrides,
    RecipeName,
    ReportFolder,
    RunName,
    Small,
    Title,
    Workspace,
)
from sfplus.cli.run import run_until

app = App()


@app.command()
def finetune(
    recipe: RecipeName,
    overrides: Overrides = None,
    device: Device = "auto",
    workspace: Workspace = DATA,
    name: RunName = "",
    out: ReportFolder = None,
    title: Title = "",
    small: Small = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune as a recipe says (SphereFace+), with the stages before it if they are stale.

    Example: sfplus finetune demo finetune.energy.weight=0
    """
    run_until("finetune", recipe, overrides, device, workspace, name, out, title, small, as_json)
