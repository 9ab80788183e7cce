"""Verify a model, or features, on a pair list and write a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.cli.detect import refuse_with_crops
from sfplus.cli.options import (
    DATA,
    AsJson,
    ChooseOne,
    DetectorName,
    Device,
    ModelInputText,
    ModelName,
    ModelNetwork,
    PhotosAreCrops,
    ReportFolder,
    Title,
    Turned,
    Undetected,
    Workspace,
)
from sfplus.cli.report_folder import run_name_of
from sfplus.cli.run import run_recipe, this_command, title_override
from sfplus.cli.verify_features import verify_features
from sfplus.datasets.verification_bin import BIN_SUFFIX
from sfplus.detection.registry import MTCNN, check_detector
from sfplus.errors import UsageError
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.verification.features import FEATURE_SUFFIXES
from sfplus.weights.find_model import ModelSource

app = App()


@app.command()
def verify(
    photos: Annotated[
        Path | None,
        typer.Argument(help="The folder of the photos that the pairs name, or a .bin file of insightface."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Argument(help="The pair list, of any form; by default pairs.txt in or beside PHOTOS."),
    ] = None,
    model: ModelName = "",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="Features instead of photos: .npz, .npy, .safetensors, .parquet or .csv.",
        ),
    ] = None,
    pairs_option: Annotated[Path | None, typer.Option("--pairs", help="The pair list, if PHOTOS is not given.")] = None,
    against: Annotated[
        str, typer.Option("--against", help="A second model (or file of features) on the same pairs.")
    ] = "",
    protocol: Annotated[
        str, typer.Option("--protocol", help="The meaning of accuracy: sphereface, insightface, opensphere or exact.")
    ] = "sphereface",
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Split the pairs into this many folds, not those of the list.")
    ] = None,
    crops: PhotosAreCrops = False,
    mirrored: Annotated[
        bool,
        typer.Option(
            "--mirrored",
            help="With --features: the first half of each feature is of the photo, the second of its mirror image, as "
            "sfplus embed writes them; the sphereface protocol compares both halves at once, the others their sum.",
        ),
    ] = False,
    out: ReportFolder = None,
    title: Title = "",
    choose: ChooseOne = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    undetected: Undetected = "centre-crop",
    device: Device = "auto",
    workspace: Workspace = DATA,
    as_json: AsJson = False,
) -> None:
    """Verify a model, or features, on a pair list and write a report.

    Example: sfplus verify data/lfw --model pretrained/sphereface10-distilled --against my/model

    Example: sfplus verify photos pairs.csv --folds 5

    Example: sfplus verify agedb_30.bin --model my/model

    Example: sfplus verify --features F.npz --pairs pairs.txt --against G.npz

    PAIRS: lines 'path path label' or 'label path path', also with a fold, separated by commas, semicolons, tabs or
    spaces, or one of LFW's forms. Only the photos that they name are worked on. The names may leave out the extension
    and leading folders, and Name/Name_0001, Name/1 and Name_0001 are the same photo.

    F.npz holds the arrays names (of photos, as in the pairs) and features (N, d); F.npy needs F.txt with a name in each
    line. Pairs with a photo that has no features are an error, or left out with --undetected skip.
    """
    pairs = pairs_option or pairs
    if features:
        for option, value in (("--model", model), ("--network", network), ("--input", input)):
            if value:
                raise UsageError("does not go with --features", where=option, remedy="give one of them")
        if photos and pairs:
            raise UsageError("does not go with --features", where=photos, remedy="give the pair list only")
        verify_features(
            features, pairs or photos, against, protocol, mirrored, undetected, folds, out, title, workspace,
            this_command(), as_json,
        )  # fmt: skip
    elif photos:
        photos, pairs = find_pairs(photos, pairs)
        if Path(against).suffix in set(FEATURE_SUFFIXES) - {".safetensors"}:  # which may be a model too
            remedy = "give a model, or both as features: sfplus embed makes them"
            raise UsageError("is a file of features, beside photos", where=f"--against {against}", remedy=remedy)
        source = ModelSource(model or DEFAULT_MODEL, network, input)
        source.check_code()
        overrides = lfw_overrides(source, photos, pairs, undetected, folds, crops)
        check_detector(detector)
        if crops:
            refuse_with_crops(detector, turned)
        overrides += [f"detect.detector={json.dumps(detector)}", f"detect.turned={json.dumps(turned)}"]
        overrides += [f"verify.protocol={json.dumps(protocol)}", f"detect.choose={choose}", *title_override(title)]
        name = run_name_of(workspace, pairs, photos)
        run_recipe("lfw", overrides, "", device, workspace, name, against, out, this_command(), as_json)
    else:
        raise typer.BadParameter("give a folder of photos, or --features and --pairs", param_hint="PHOTOS")


def lfw_overrides(
    model: ModelSource, photos: Path, pairs: Path, undetected: str, folds: int | None = None, crops: bool = False
) -> list[str]:
    """Return the overrides of recipe `lfw` that verify a model on other photos and pairs.

    Args:
        model: The model; the photos are aligned to its template.
        photos: The folder of photos, or a `.bin` file.
        pairs: The pair list.
        undetected: What to do with photos without a detected face.
        folds: The number of folds; None for those of the list.
        crops: Whether the photos are aligned crops.

    Raises:
        UsageError: If there is no such model, or its input must be named.
        WeightsError: If it cannot be read.
    """
    values = {
        "align.template": model.template, "embed.model": model.name, "embed.network": model.network,
        "embed.input": model.input, "verify.photos": photos, "verify.pairs": pairs, "verify.undetected": undetected,
    }  # fmt: skip
    overrides = [f"{key}={json.dumps(str(value))}" for key, value in values.items() if value]
    return [*overrides, *[f"verify.folds={folds}"] * bool(folds), *["verify.crops=true"] * crops]


def find_pairs(photos: Path, pairs: Path | None) -> tuple[Path, Path]:
    """Return the folder of photos, or the `.bin` file, and its pair list.

    Raises:
        UsageError: If there is no pair list, or the photos are in no folder.
    """
    if photos.suffix.lower() == BIN_SUFFIX:
        return photos, pairs or photos
    if photos.is_file():
        raise UsageError("is not a folder", where=photos, remedy="give the folder of photos first, then the pair list")
    pairs = pairs or next((f for f in (photos / "pairs.txt", photos.parent / "pairs.txt") if f.is_file()), None)
    if pairs is None:
        raise UsageError(
            "there is no pairs.txt in it or beside it", where=photos, remedy="give its path, or: sfplus lfw"
        )
    is_set = pairs.parent == photos and (photos / "photos").is_dir()  # a folder that holds photos/ and pairs.txt
    return (photos / "photos" if is_set else photos), pairs
