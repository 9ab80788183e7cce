"""Detect the faces in photos and write them as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sfplus.artifacts.layout import FACES, PHOTOS
from sfplus.cli.options import Choose, Device, MinFace, OutFolder, Parity, PhotoFolderOrList
from sfplus.cli.photo_folders import failures_file, print_summary, publish, run_on_folder
from sfplus.cli.photo_inputs import list_inputs
from sfplus.io.tables import FAILURES
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.steps import UserPhotos

app = typer.Typer(add_completion=False)


@app.command()
def detect(
    photos: PhotoFolderOrList,
    out: OutFolder,
    min_face: MinFace = 20,
    choose: Choose = "centre",
    parity: Parity = "none",
    device: Device = "auto",
) -> None:
    """Detect the faces in photos: OUT gets faces.parquet, photos.parquet and failures.jsonl.

    Example: sfplus detect holiday faces
    """
    raise typer.Exit(detect_folder(photos, out, device, {"min_face": min_face, "choose": choose, "parity": parity}))


def detect_folder(photos: Path, out: Path, device: str, settings: Mapping[str, Any] | None = None) -> int:
    """Write the faces of a folder or list of photos as tables to `out`, and return the exit code.

    Args:
        photos: A folder, a photo, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for the tables.
        device: The device to run on.
        settings: The key `detect` of a recipe.
    """
    recipe = Recipe.model_validate({"detect": settings or {}})
    source = list_inputs(photos, out)
    steps = crop_steps(UserPhotos(source.root), recipe.plan_request(), "photos")[:1]
    with run_on_folder(source, out, device, steps, "detect") as done:
        detected = done["detect/photos"]
        files = {name: detected.folder / name for name in (FACES, PHOTOS)}
        publish(files | {FAILURES: failures_file(detected, source, out)}, out)
        return print_summary(detected, out)
