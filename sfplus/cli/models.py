"""List, fetch and check models that others trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.io.resources import HUB
from sfplus.weights import zoo
from sfplus.weights.find_model import find_model

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, fetch and check models that others trained.")

ZooName = Annotated[str, typer.Argument(metavar="NAME", help="See: sfplus models list")]


@app.command("list")
def list_models() -> None:
    """List the models: their state on this machine, the published accuracy on LFW, a description.

    A star marks those that this project has verified; sfplus models info NAME shows the figure.
    """
    for name, entry in zoo.zoo().items():
        mark = "*" if entry.verified else " "
        accuracy = "" if entry.lfw is None else f"{entry.lfw:5.2f} %"
        print(f"{name:<22} {zoo.status(name):<12} {accuracy:7} {mark} {entry.what}")


@app.command()
def info(name: ZooName) -> None:
    """Show the details of a model: accuracy, data, licence, files with their SHA-256, address."""
    print(zoo.describe(name))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See: sfplus models list; or hf:owner/name[@revision]")],
    file: Annotated[Path | None, typer.Option("--from", help="The file, if you downloaded it yourself.")] = None,
) -> None:
    """Make a model ready for --model NAME, a detector for --detector NAME: download it, or take a file; check it.

    If only a person can download the file, this says where it is and how to go on, and the exit code is 1.

    Example: sfplus models fetch sphereface20 --from sphereface_model.caffemodel
    """
    if name.startswith(HUB):
        print(f"{name}: {find_model(name)}")
        return
    text, ready = zoo.fetch(name, file)
    print(text)
    raise typer.Exit(not ready)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file, or a folder with a model.")],
    name: Annotated[str, typer.Option("--name", help="The name of the model, if the file name does not say it.")] = "",
) -> None:
    """Check the SHA-256 of a file against that of the model.

    If no SHA-256 is published, that of the first valid file is remembered, and other files are refused from then on.

    Example: sfplus models verify sphereface_model.caffemodel --name sphereface20
    """
    print(zoo.verify(file, name))
