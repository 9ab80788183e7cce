"""Turn a folder of photos into features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sfplus.artifacts.layout import FEATURE_INDEX, FEATURES
from sfplus.cli.options import Device, ModelInputText, ModelName, ModelNetwork, OutFolder, PhotoFolder
from sfplus.cli.photo_folders import keep_apart, print_summary, publish, run_on_folder
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import FAILURES
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.align import AlignSettings, crop_steps
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.recipes.steps import InputReference, Step, StepOutput, UserModel, UserPhotos

app = typer.Typer(add_completion=False)
Dtype = Literal["float32", "bfloat16"]


@app.command()
def embed(
    photos: PhotoFolder,
    out: OutFolder,
    model: ModelName = "",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    crops: Annotated[bool, typer.Option("--crops", help="IN holds crops that are aligned already.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Floating-point type; float32 is the reference.")] = "float32",
    device: Device = "auto",
) -> None:
    """Turn a folder of photos into features: OUT gets features.safetensors and index.parquet.

    The exit code is 1 if a photo could not be read, or with --crops is not of the size of a crop: see failures.jsonl.

    Example: sfplus embed holiday features
    """
    source = UserModel(model or DEFAULT_MODEL, network, input)
    raise typer.Exit(embed_folder(photos, out, source, device, crops, dtype))


def embed_folder(
    photos: Path, out: Path, model: UserModel, device: str, crops: bool = False, dtype: Dtype = "float32"
) -> int:
    """Write the features of a folder of photos and their index to `out`, and return the exit code.

    Args:
        photos: The folder of photos.
        out: The folder for features and index.
        model: The model.
        device: The device to run on.
        crops: Whether the photos are aligned crops.
        dtype: The floating-point type.
    """
    keep_apart(photos, out)
    inputs: dict[str, InputReference] = {"model": model}
    inputs["crops"] = UserPhotos(photos) if crops else StepOutput("align/photos")
    recipe = Recipe(align=AlignSettings(template=model.template))
    steps = [] if crops else crop_steps(UserPhotos(photos), recipe.plan_request(), "photos")
    steps = [*steps, Step("embed", EmbedSettings.stage, EmbedSettings(dtype=dtype), inputs)]
    with run_on_folder(photos, out, device, steps) as done:
        tables = {name: done["embed"].folder / name for name in (FEATURES, FEATURE_INDEX)}
        last = done["embed" if crops else "align/photos"]
        publish(tables | {FAILURES: last.folder / FAILURES}, out)
        return print_summary(last, out)
