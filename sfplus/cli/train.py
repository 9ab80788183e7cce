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


def training_app(stage: str, about: str) -> App:
    """Return the command that runs a recipe up to its training or fine-tuning, with the help `about`."""
    app = App()

    @app.command(stage, help=about)
    def command(
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
        run_until(stage, recipe, overrides, device, workspace, name, out, title, small, as_json)

    return app


app = training_app(
    "train",
    """Train as a recipe says, with the stages before it if they are stale.

    Example: sfplus train sphereface-plus-m4 train.photos=my/photos
    """,
)
