"""Detect the faces in photos and write them as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from sfplus.artifacts.layout import FACES, PHOTOS
from sfplus.cli.command import App
from sfplus.cli.options import Choose, DetectorName, Device, MinFace, OutFolder, Parity, PhotoFolderOrList, Turned
from sfplus.cli.photo_folders import failures_file, print_summary, publish, run_on_folder
from sfplus.cli.photo_inputs import list_inputs
from sfplus.detection.registry import MTCNN, check_detector
from sfplus.errors import UsageError
from sfplus.io.tables import FAILURES
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.steps import UserPhotos

app = App()


@app.command()
def detect(
    photos: PhotoFolderOrList,
    out: OutFolder,
    min_face: MinFace = 20,
    choose: Choose = "centre",
    parity: Parity = "none",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    device: Device = "auto",
) -> None:
    """Detect the faces in photos: OUT gets faces.parquet, photos.parquet and failures.jsonl.

    Example: sfplus detect holiday faces
    """
    settings = detect_settings(min_face=min_face, choose=choose, parity=parity, detector=detector, turned=turned)
    raise typer.Exit(detect_folder(photos, out, device, settings))


def detect_settings(**options: Any) -> DetectSettings:
    """Return the settings of the detector for the options of a command.

    Raises:
        UsageError: If there is no such detector, or an option does not go with it.
    """
    check_detector(options.get("detector", MTCNN))
    try:
        return DetectSettings(**options)
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, "), where="--detector") from None


def refuse_with_crops(detector: str, turned: bool) -> None:
    """Refuse the options of a detector beside `--crops`, with which nothing is detected.

    Raises:
        UsageError: If one is given.
    """
    for option, is_given in (("--detector", detector != MTCNN), ("--turned", turned)):
        if is_given:
            raise UsageError("does not go with --crops", where=option, remedy="leave out one of them")


def detect_folder(photos: Path, out: Path, device: str, settings: DetectSettings | None = None) -> int:
    """Write the faces of a folder or list of photos as tables to `out`, and return the exit code.

    Args:
        photos: A folder, a photo, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for the tables.
        device: The device to run on.
        settings: The key `detect` of a recipe.
    """
    recipe = Recipe(detect=settings or DetectSettings())
    source = list_inputs(photos, out)
    steps = crop_steps(UserPhotos(source.root), recipe.plan_request(), "photos")[:1]
    with run_on_folder(source, out, device, steps, "detect") as done:
        detected = done["detect/photos"]
        files = {name: detected.folder / name for name in (FACES, PHOTOS)}
        publish(files | {FAILURES: failures_file(detected, source, out)}, out)
        return print_summary(detected, out)
