"""Measure the threshold of a model on pairs, for compare and app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.artifacts.artefact import MANIFEST
from sfplus.cli.command import App
from sfplus.cli.options import DATA, Device, ModelInputText, ModelNetwork, PhotosAreCrops, Undetected, Workspace
from sfplus.cli.run import run_recipe
from sfplus.cli.verify import find_pairs, lfw_overrides
from sfplus.errors import UsageError
from sfplus.io.files import atomic_folder, check_new
from sfplus.io.resources import shipped_folder, user_folder
from sfplus.weights.find_model import ModelSource

app = App()


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of any kind, as --model takes it.")],
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="PHOTOS", help="The folder of the photos that the pairs name, or a .bin file of insightface."
        ),
    ],
    pairs: Annotated[
        Path | None,
        typer.Argument(metavar="PAIRS", help="The pair list, of any form; by default pairs.txt in or beside PHOTOS."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A new folder for a copy of the model; by default the folder MODEL."),
    ] = None,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    crops: PhotosAreCrops = False,
    undetected: Undetected = "centre-crop",
    device: Device = "auto",
    workspace: Workspace = DATA,
) -> None:
    """Measure the threshold of a model on pairs, for compare and app.

    The mean feature, the threshold and the scores of the pairs are kept in the folder of the model.

    Example: sfplus calibrate w600k_r50.onnx data/lfw data/lfw/pairs.txt --input insightface --out my/arcface
    """
    from sfplus.pipeline.export import add_decision, copy_model, measure_decision  # start-up time: imports torch

    source = ModelSource(model, network, input)
    target = _target(source, out)
    photos, pairs = find_pairs(photos, pairs)
    overrides = lfw_overrides(source, photos, pairs, undetected, crops=crops)
    artefacts = run_recipe("lfw", overrides, "verify", device, workspace, "calibrate")
    rule = measure_decision(artefacts)
    if out:
        with atomic_folder(target) as partial:  # a copy never appears without its threshold
            partial.rmdir()
            copy_model(source, partial)
            add_decision(partial, rule)
    else:
        add_decision(target, rule)
    print(rule.describe())
    print(f"model: {target}")


def _target(source: ModelSource, out: Path | None) -> Path:
    """Return the folder for the threshold, after checking that it may be written.

    Raises:
        UsageError: If `out` exists, or is needed: a folder of sfplus or of its cache, a file or a function is not
            changed, and a folder is not changed to be used with another input.
    """
    if out:
        check_new(out)
        return out
    folder, remedy = source.path, "give a new folder: --out FOLDER"
    if not folder.is_dir():
        raise UsageError("is not a folder, in which a threshold can be kept", where=source.name, remedy=remedy)
    if (folder / MANIFEST).is_file():
        raise UsageError("is an artefact of the cache, which is not changed", where=source.name, remedy=remedy)
    homes = [shipped_folder("pretrained").resolve(), user_folder().resolve()]
    if source.name.startswith("hf:") or folder.resolve().parent in homes:
        raise UsageError("is not a folder of yours, and is not changed", where=source.name, remedy=remedy)
    if source.network or source.input:
        raise UsageError("would be used with another input than its own", where=source.name, remedy=remedy)
    return folder
