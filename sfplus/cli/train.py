"""Train as a recipe says, with the stages before it if they are stale."""

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
def train(
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
    """Train as a recipe says, with the stages before it if they are stale.

    Example: sfplus train sphereface-plus-m4 train.photos=my/photos
    """
    run_until("train", recipe, overrides, device, workspace, name, out, title, small, as_json)
