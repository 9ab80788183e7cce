"""Open TensorBoard on the training curves of a recipe, or of all recipes."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.cli.options import DATA, Overrides, Small, Workspace
from sfplus.cli.run import apply_small, open_recipe
from sfplus.errors import DependencyError, UsageError, first_line
from sfplus.io.extras import pip_command
from sfplus.pipeline.status import StepStatus, step_statuses
from sfplus.training.history import EVENTS

app = App()
_HOST = "127.0.0.1"  # this machine only


@app.command()
def board(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file; all recipes if omitted.")
    ] = "",
    overrides: Overrides = None,
    workspace: Workspace = DATA,
    small: Small = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0: any.")] = 6006,
) -> None:
    """Open TensorBoard on the training curves of a recipe, or of all recipes. Ctrl-C stops it.

    A training that runs is shown too. From another machine: ssh -L 6006:localhost:6006 NAME.

    Example: sfplus board demo
    """
    if not recipe:
        if not any((workspace / "cache").glob(f"*/*/{EVENTS}")):
            raise _no_curves(workspace, "sfplus run demo")
        serve(workspace / "cache", port)
        return
    settings, small_name = apply_small(recipe, overrides, small)
    steps, context, record = open_recipe(recipe, settings, "cpu", workspace, small_name)
    folders = curve_folders(step_statuses(steps, context, record))
    if not folders:
        raise _no_curves(recipe, shlex.join(["sfplus", "run", recipe, *settings]))
    with _links(folders) as folder:
        serve(folder, port)


def curve_folders(statuses: Iterable[StepStatus]) -> dict[str, Path]:
    """Return the folders of TensorBoard's files by the names of the steps that have trained, or are training."""
    folders = {
        status.step.replace("/", "-"): folder / EVENTS
        for status in statuses
        for folder in [status.partial, status.artefact.folder if status.artefact else None]
        if folder
    }
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def serve(folder: Path, port: int) -> None:
    """Serve the curves in a folder until Ctrl-C.

    Args:
        folder: a folder of TensorBoard's files, at any depth.
        port: the port to listen on; 0 for any.

    Raises:
        DependencyError: If TensorBoard is not installed.
        UsageError: If the port is in use.
    """
    try:
        from tensorboard import program  # type: ignore[import-untyped]  # slow to import, and the help need not wait for it
    except ImportError as error:
        reason = f"TensorBoard cannot be imported ({first_line(error)})"
        remedy = f"install it: {pip_command()} install tensorboard"
        raise DependencyError(reason, where="sfplus board", remedy=remedy) from error
    server = program.TensorBoard()
    server.configure(
        argv=["tensorboard", "--logdir", str(folder), "--host", _HOST, "--port", str(port), "--load_fast", "false"]
    )
    try:
        address = server.launch()
    except program.TensorBoardServerException as error:
        raise UsageError(first_line(error), where=f"--port {port}", remedy="choose another port") from error
    print(f"page: {address} (Ctrl-C stops it)", flush=True)
    threading.Event().wait()


def _no_curves(where: Path | str, command: str) -> UsageError:
    return UsageError("nothing has been trained yet", where=where, remedy=f"train first: {command}")


@contextlib.contextmanager
def _links(folders: dict[str, Path]) -> Iterator[Path]:
    """Yield a folder with links to folders, so that TensorBoard shows their names."""
    with tempfile.TemporaryDirectory(prefix="sfplus-board-") as temporary:
        for name, folder in folders.items():
            (Path(temporary) / name).symlink_to(folder.resolve())
        yield Path(temporary)
