"""Verify a model, or features, on a pair list and write a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.options import DATA, Device, ModelName, ReportFolder, Title, Undetected, Workspace
from sfplus.cli.report_folder import run_name_of
from sfplus.cli.run import run_recipe, this_command, title_override
from sfplus.cli.verify_features import verify_features
from sfplus.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    photos: Annotated[Path | None, typer.Argument(help="The folder of the photos that the pairs name.")] = None,
    pairs: Annotated[
        Path | None, typer.Argument(help="The pair list, such as LFW's pairs.txt; by default that in or beside PHOTOS.")
    ] = None,
    model: ModelName = "",
    features: Annotated[
        Path | None, typer.Option("--features", help="Features instead of photos: .npz, .safetensors or .parquet.")
    ] = None,
    pairs_option: Annotated[Path | None, typer.Option("--pairs", help="The pair list, if PHOTOS is not given.")] = None,
    against: Annotated[
        str, typer.Option("--against", help="A second model (or file of features) on the same pairs.")
    ] = "",
    protocol: Annotated[
        str, typer.Option("--protocol", help="The meaning of accuracy: sphereface, insightface, opensphere or exact.")
    ] = "sphereface",
    mirrored: Annotated[
        bool,
        typer.Option("--mirrored", help="Features of photo and mirror image are concatenated, as by sfplus embed."),
    ] = False,
    out: ReportFolder = None,
    title: Title = "",
    undetected: Undetected = "centre-crop",
    device: Device = "auto",
    workspace: Workspace = DATA,
) -> None:
    """Verify a model, or features, on a pair list and write a report.

    Example: sfplus verify data/lfw --model pretrained/sphereface10-small --against my/model

    Example: sfplus verify --features F.npz --pairs pairs.txt --against G.npz --out report

    F.npz holds the arrays names (of photos as in the pairs, extension optional) and features (N, d). Pairs with a photo
    that has no features are an error, or left out with --undetected skip.
    """
    pairs = pairs_option or pairs
    if features:
        verify_features(
            features, pairs or photos, against, protocol, mirrored, undetected, out, title, workspace, this_command()
        )
    elif photos:
        verify_photos(
            photos, pairs, model, against, protocol, undetected, device, workspace, out, title, this_command()
        )
    else:
        raise typer.BadParameter("give a folder of photos, or --features and --pairs", param_hint="PHOTOS")


def verify_photos(
    photos: Path,
    pairs: Path | None,
    model: str,
    against: str,
    protocol: str,
    undetected: str,
    device: str,
    workspace: Path,
    out: Path | None,
    title: str,
    command: str,
) -> None:
    """Run the recipe `lfw` on other photos and pairs.

    Args:
        photos: The folder of photos.
        pairs: The pair list; None for the pairs.txt in or beside the photos.
        model: The model to verify; empty for that of the recipe.
        against: A second model, or empty.
        protocol: The name of a protocol.
        undetected: What to do with photos without a detected face.
        device: The device to run on.
        workspace: The folder of cache and runs.
        out: The folder of the report; None for the folder in `runs/` of the data set.
        title: The heading of the report; empty for the data set.
        command: The command that the report shows.

    Raises:
        UsageError: If there is no pair list, or `against` is not a model.
    """
    pairs = pairs or next((f for f in (photos / "pairs.txt", photos.parent / "pairs.txt") if f.is_file()), None)
    if pairs is None:
        raise UsageError(
            "there is no pairs.txt in it or beside it", where=photos, remedy="give its path, or: sfplus lfw"
        )
    if Path(against).suffix in (".npz", ".safetensors", ".parquet"):
        remedy = "give a model, or both as features: sfplus embed makes them"
        raise UsageError("is a file of features, beside photos", where=f"--against {against}", remedy=remedy)
    values = {
        "verify.photos": photos, "verify.pairs": pairs, "verify.undetected": undetected, "embed.model": model,
        "verify.protocol": protocol,
    }  # fmt: skip
    overrides = [f"{key}={json.dumps(str(value))}" for key, value in values.items() if value] + title_override(title)
    name = run_name_of(workspace, pairs, photos)
    run_recipe("lfw", overrides, "", device, workspace, name, against, out, command)
