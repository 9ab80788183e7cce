"""Compare the faces of two photos: similarity and decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import sfplus
from sfplus.cli.options import Device, ModelInputText, ModelName, ModelNetwork
from sfplus.errors import UsageError
from sfplus.images import encode_image
from sfplus.io.files import check_folder, write_atomically
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.verification.decision import explain_similarity

app = typer.Typer(add_completion=False)


def compare_photos(
    first: Path,
    second: Path,
    model: str,
    far: float | None,
    save: Path | None,
    device: str,
    *,
    network: str = "",
    input: str = "",
) -> None:
    """Print the similarity of the faces in two photos and, if the model has a threshold, whether they are one person.

    Args:
        first: a photo.
        second: another photo.
        model: a model, as `Embedder` takes it; empty for the default model.
        far: the false accept rate to decide at; None for the threshold of the verification.
        save: a folder for the two crops, or None.
        device: the device to run on.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`); no threshold applies to another input.

    Raises:
        UsageError: If a FAR is asked for and the model has no threshold, or `save` is not a folder.
        PhotoError: If a photo cannot be read or has no face.
    """
    if save:
        check_folder(save)
    embedder = sfplus.Embedder(model or DEFAULT_MODEL, device, network=network, input=input)
    rule = embedder.decision_rule
    if rule:
        rule.threshold(far)  # fail before the photos are read
    elif far is not None:
        remedy = f"measure them: sfplus calibrate {model} PHOTOS PAIRS"
        raise UsageError("this model has no error rates", where=f"--far {far:g}", remedy=remedy)
    crops = embedder.crops([first, second])
    left, right = embedder.features(crops)
    score = embedder.similarity(left, right)
    print(rule.explain(score, far) if rule else explain_similarity(score, model))
    if save:
        save.mkdir(parents=True, exist_ok=True)
        for letter, path, crop in zip("AB", (first, second), crops, strict=True):
            target = save / f"{letter}-{path.stem}.png"
            write_atomically(target, encode_image(crop, ".png"))
            print(f"crop {letter}: {target}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.jpg", help="The first photo.")],
    second: Annotated[Path, typer.Argument(metavar="B.jpg", help="The second photo.")],
    model: ModelName = "",
    far: Annotated[
        float | None,
        typer.Option("--far", help="Decide where at most this fraction of different people is accepted: 0.001."),
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="A folder for the two crops.")] = None,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    device: Device = "auto",
) -> None:
    """Compare the faces of two photos: similarity, and the decision at the model's threshold or at a FAR.

    A model without a threshold gives the similarity only; sfplus calibrate measures one.

    Example: sfplus compare anna.jpg anna-2019.jpg --far 0.001 --save crops
    """
    compare_photos(first, second, model, far, save, device, network=network, input=input)
