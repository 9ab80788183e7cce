"""Cut the aligned face out of each photo; OUT mirrors the folders of IN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sfplus.alignment.templates import DEFAULT_TEMPLATE, find_template
from sfplus.artifacts.layout import CROP_COLUMNS, CROP_TABLE, CROPS, FACES
from sfplus.cli.command import App
from sfplus.cli.detect import detect_settings
from sfplus.cli.options import Choose, DetectorName, Device, MinFace, OutFolder, Parity, PhotoFolderOrList, Turned
from sfplus.cli.photo_folders import failures_file, print_summary, publish, run_on_folder
from sfplus.cli.photo_inputs import list_inputs
from sfplus.detection.registry import MTCNN
from sfplus.images import CACHE, CONTACT_SHEET, encode_image
from sfplus.io.files import write_atomically
from sfplus.io.tables import FAILURES, read_parquet
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.steps import UserPhotos
from sfplus.reports.contact_sheet import draw_contact_sheet

app = App()


@app.command()
def align(
    photos: PhotoFolderOrList,
    out: OutFolder,
    template: Annotated[
        str,
        typer.Option(
            help="sphereface-112x96, arcface-112x112 (the crop of insightface), or either in another size (height x "
            "width), scaled about its centre; insightface's 128x128 and 224x224 differ."
        ),
    ] = DEFAULT_TEMPLATE,
    first_pixel: Annotated[
        Literal["source", "0", "1"], typer.Option(help="Index of the template's first pixel.")
    ] = "source",
    fit: Annotated[
        Literal["source", "image", "template"],
        typer.Option(help="Least squares in the photo (image), in the crop (template), or as the template's source."),
    ] = "source",
    interpolation: Annotated[
        Literal["bilinear", "area", "antialiased"], typer.Option(help="How larger faces are scaled down.")
    ] = "bilinear",
    border: Annotated[Literal["black", "replicate"], typer.Option(help="Pixels outside the photo.")] = "black",
    format_: Annotated[Literal["jpeg", "png"], typer.Option("--format", help="File format of the crops.")] = "jpeg",
    jpeg_quality: Annotated[int, typer.Option(min=1, max=95, help="JPEG quality of the crops.")] = 75,
    min_face: MinFace = 20,
    choose: Choose = "centre",
    parity: Parity = "none",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    report: Annotated[bool, typer.Option("--report", help="Also draw a contact sheet: OUT/contact-sheet.png.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Number of threads; 0: as many as torch uses.")] = 0,
    device: Device = "auto",
) -> None:
    """Cut the aligned face out of each photo; OUT mirrors the folders of IN.

    An interrupted call is resumed by the same command; a second call is instant as long as IN is unchanged.

    Several processes share the work when they are given the same IN and OUT: start the command again in another shell,
    or on another machine with the same disk, or use torchrun or accelerate launch, where each process takes a GPU.

    The exit code is 1 if a photo could not be read; failures.jsonl in OUT lists it, and the photos without a face.

    Example: sfplus align holiday crops --report

    Example: torchrun --nproc-per-node 2 -m sfplus align holiday crops
    """
    settings = {
        "detect": detect_settings(min_face=min_face, choose=choose, parity=parity, detector=detector, turned=turned),
        "align": {
            "template": find_template(template).name, "fit": fit, "border": border, "interpolation": interpolation,
            "first_pixel": first_pixel if first_pixel == "source" else int(first_pixel),
            "format": format_, "jpeg_quality": jpeg_quality,
        },
    }  # fmt: skip
    raise typer.Exit(align_folder(photos, out, device, settings, report, workers))


def align_folder(
    photos: Path,
    out: Path,
    device: str,
    settings: Mapping[str, Any] | None = None,
    report: bool = False,
    workers: int = 0,
) -> int:
    """Write the crops of a folder or list of photos to the same folders under `out`, and return the exit code.

    Args:
        photos: A folder, a photo, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for the crops and tables.
        device: The device to run on.
        settings: The keys `detect` and `align` of a recipe.
        report: Whether to draw a contact sheet.
        workers: The number of threads; 0 for as many as torch uses.
    """
    recipe = Recipe.model_validate(settings or {})
    source = list_inputs(photos, out)
    if workers:
        import torch  # slow to import; without --workers a fresh call does not need it

        torch.set_num_threads(workers)
    steps = crop_steps(UserPhotos(source.root), recipe.plan_request(), "photos")
    with run_on_folder(source, out, device, steps, "align") as done:
        folder, faces = done["align/photos"].folder, done["detect/photos"].folder
        crops = {name: folder / CROPS / name for name in read_parquet(folder / CROP_TABLE, CROP_COLUMNS)["crop"]}
        files = crops | {FACES: faces / FACES, FAILURES: failures_file(done["align/photos"], source, out)}
        if report:
            files[CONTACT_SHEET] = out / CACHE / CONTACT_SHEET
            sheet = draw_contact_sheet(source.root, faces, folder)
            write_atomically(files[CONTACT_SHEET], encode_image(sheet, ".png"))
        publish(files, out)
        return print_summary(done["align/photos"], out, faces, "--choose all cuts out every face")
