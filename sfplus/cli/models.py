"""List, fetch and check models that others trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.cli.json_results import KnownModel, print_result
from sfplus.cli.options import AsJson
from sfplus.io.resources import HUB
from sfplus.weights import zoo
from sfplus.weights.find_model import find_model

app = App(no_args_is_help=True, help="List, fetch and check models that others trained.")

ZooName = Annotated[str, typer.Argument(metavar="NAME", help="See: sfplus models list")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models: their state on this machine, the published accuracy on LFW, a description.

    A star marks those that this project has verified; sfplus models info NAME shows the figure.

    Example: sfplus models list
    """
    models = [_describe(name) for name in zoo.zoo()]
    print_result(models, map(_line, models), as_json)


def _line(model: KnownModel) -> str:
    accuracy = "" if model.lfw is None else f"{model.lfw:5.2f} %"
    return f"{model.name:<22} {model.status:<12} {accuracy:7} {'*' if model.verified else ' '} {model.what}"


def _describe(name: str) -> KnownModel:
    entry = zoo.find_entry(name)
    return KnownModel(
        name=name, status=zoo.status(name), addresses=[*filter(None, (entry.url, *entry.pages))],
        runs=list(entry.runs), files=zoo.checksums(name), crops=entry.crops,
        **entry.model_dump(include={"what", "network", "lfw", "protocol", "verified", "data", "licence", "source"}),
    )  # fmt: skip


@app.command()
def info(name: ZooName, as_json: AsJson = False) -> None:
    """Show the details of a model: accuracy, data, licence, files with their SHA-256, address.

    Example: sfplus models info sphereface20
    """
    print_result(_describe(name), [zoo.describe(name)], as_json)


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
