"""Turn photos into features."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import typer

from sfplus.artifacts.context import is_first
from sfplus.artifacts.layout import FACE_COLUMNS, FACES, FEATURE_COLUMNS, FEATURE_INDEX, FEATURES
from sfplus.cli.command import App
from sfplus.cli.detect import detect_settings, refuse_with_crops
from sfplus.cli.options import (
    Choose,
    DetectorName,
    Device,
    ModelInputText,
    ModelName,
    ModelNetwork,
    OutFolder,
    PhotoFolderOrList,
    Turned,
)
from sfplus.cli.photo_folders import failures_file, print_summary, publish, run_on_folder
from sfplus.cli.photo_inputs import list_inputs
from sfplus.detection.registry import MTCNN
from sfplus.images import CACHE
from sfplus.io.files import write_json
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import FAILURES, read_parquet, write_parquet
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.align import AlignSettings, crop_steps
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.recipes.steps import InputReference, Step, StepOutput, UserModel, UserPhotos
from sfplus.weights import MEAN

app = App()
Dtype = Literal["float32", "bfloat16"]
MODEL_JSON = "model.json"


@app.command()
def embed(
    photos: PhotoFolderOrList,
    out: OutFolder,
    model: ModelName = "",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    choose: Choose = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    crops: Annotated[bool, typer.Option("--crops", help="IN holds crops that are aligned already.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Floating-point type; float32 is the reference.")] = "float32",
    device: Device = "auto",
) -> None:
    """Turn photos into features: OUT gets features.safetensors and index.parquet.

    The rows of both belong together. The index has the photo of each feature and the number of the face in the photo,
    whose box and landmarks are in faces.parquet. model.json names the model; if it has a threshold, mean.safetensors is
    written too: the similarity of two features is the cosine after its `mean` is subtracted from both.

    The exit code is 1 if a photo could not be read, or with --crops is not of the size of a crop: see failures.jsonl.

    Example: sfplus embed holiday features
    """
    source = UserModel(model or DEFAULT_MODEL, network, input)
    if crops:
        refuse_with_crops(detector, turned)
    detect = detect_settings(choose=choose, detector=detector, turned=turned)
    raise typer.Exit(embed_folder(photos, out, source, device, crops, dtype, detect))


def embed_folder(
    photos: Path,
    out: Path,
    model: UserModel,
    device: str,
    crops: bool = False,
    dtype: Dtype = "float32",
    detect: DetectSettings | None = None,
) -> int:
    """Write the features of a folder or list of photos and their index to `out`, and return the exit code.

    Args:
        photos: A folder, a photo, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for features and index.
        model: The model.
        device: The device to run on.
        crops: Whether the photos are aligned crops.
        dtype: The floating-point type.
        detect: The settings of the detector; None for the defaults.
    """
    source = list_inputs(photos, out)
    steps = embed_steps(UserPhotos(source.root), model, detect or DetectSettings(), crops, dtype)
    with run_on_folder(source, out, device, steps, "embed") as done:
        files = {name: done["embed"].folder / name for name in (FEATURES, FEATURE_INDEX)}
        last, faces = done["embed" if crops else "align/photos"], None
        if not crops:
            faces = done["detect/photos"].folder
            files |= {FEATURE_INDEX: _add_faces(files[FEATURE_INDEX], faces, out), FACES: faces / FACES}
        files |= describe_model(model, out)
        publish(files | {FAILURES: failures_file(last, source, out)}, out)
        if MEAN in files and is_first():
            limit = f"the same person above {model.config['verification']['threshold']:.3f}"
            print(f"to compare features, subtract the mean in {MEAN} from both and take the cosine; {limit}")
        return print_summary(last, out, faces, "--choose all computes their features")


def embed_steps(
    photos: UserPhotos, model: UserModel, detect: DetectSettings, crops: bool = False, dtype: Dtype = "float32"
) -> list[Step]:
    """Return the steps from photos to features: `detect/photos`, `align/photos` and `embed`; for crops the last one."""
    inputs: dict[str, InputReference] = {"model": model, "crops": photos if crops else StepOutput("align/photos")}
    recipe = Recipe(detect=detect, align=AlignSettings(template=model.template))
    steps = [] if crops else crop_steps(photos, recipe.plan_request(), "photos")
    return [*steps, Step("embed", EmbedSettings.stage, EmbedSettings(dtype=dtype), inputs)]


def describe_model(model: UserModel, out: Path) -> dict[str, Path]:
    """Return the files that say how the features of a model are compared."""
    verification = model.config.get("verification")
    about = {"model": model.name, "content": model.content, "template": model.template, "verification": verification}
    write_json(out / CACHE / MODEL_JSON, about, indent=1)
    files = {MODEL_JSON: out / CACHE / MODEL_JSON}
    if verification and (model.path / MEAN).is_file():
        files[MEAN] = model.path / MEAN
    return files


def _add_faces(index: Path, faces: Path, out: Path) -> Path:
    """Write the index of features with the column `face` of the table of faces, and return the file."""
    rows = read_parquet(index, FEATURE_COLUMNS)
    column = number_faces(rows["photo"], read_parquet(faces / FACES, FACE_COLUMNS))
    write_parquet(out / CACHE / FEATURE_INDEX, rows | {"face": pa.array(column, pa.int64())})
    return out / CACHE / FEATURE_INDEX


def number_faces(photos: Sequence[str], faces: Mapping[str, Sequence[Any]]) -> list[int | None]:
    """Return the number of the face in its photo for each crop.

    Args:
        photos: The photo of each crop.
        faces: The table of faces.
    """
    numbers = defaultdict(list)
    for photo, number, chosen in zip(faces["photo"], faces["face"], faces["chosen"], strict=True):
        if chosen:
            numbers[photo].append(number)
    counts = Counter(photos)
    # where one of several faces could not be aligned, the others of this photo are not numbered
    unused = {photo: iter(indices) for photo, indices in numbers.items() if len(indices) == counts[photo]}
    return [next(unused[photo]) if photo in unused else None for photo in photos]
