"""Group the faces of a folder of photos by person."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.layout import CROP_COLUMNS, CROP_TABLE, CROPS, FACE_COLUMNS, FACES
from sfplus.cli.detect import detect_settings
from sfplus.cli.embed import describe_model, embed_steps, number_faces
from sfplus.cli.options import (
    DetectorName,
    Device,
    ModelInputText,
    ModelName,
    ModelNetwork,
    OutFolder,
    PhotoFolderOrList,
    Turned,
)
from sfplus.cli.photo_folders import failures_file, publish, run_on_folder
from sfplus.cli.photo_inputs import PhotoInput, list_inputs
from sfplus.detection.registry import MTCNN
from sfplus.images import CACHE
from sfplus.io.console import Console, print_failures, quantity
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import FAILURES, read_failures, read_parquet
from sfplus.people.grouped_photos import GroupedPhotos, Table
from sfplus.people.names import PEOPLE_CSV
from sfplus.people.people_list import People
from sfplus.people.regroup import PEOPLE_HTML, regroup
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.steps import UserModel, UserPhotos

app = typer.Typer(add_completion=False)
_WEAK = 0.5  # of the pairs of the same person are linked


@app.command()
def group(
    photos: PhotoFolderOrList,
    out: OutFolder,
    model: ModelName = "",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=-1, max=1, help="Link faces above this similarity; by default computed."),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the photos into the folders of people, not links.")
    ] = False,
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    device: Device = "auto",
) -> None:
    """Group the faces of all photos by person: OUT gets people.html, people.csv and a folder for each person.

    people.html shows the people, and takes names and corrections; people.parquet lists all faces. Names can also be
    written into people.csv: two people with the same name become one. The next run keeps names and corrections, and
    works only on new photos.

    The exit code is 1 if a photo could not be read: see failures.jsonl.

    Example: sfplus group holiday people
    """
    source = UserModel(model or DEFAULT_MODEL, network, input)
    detect = detect_settings(choose="all", detector=detector, turned=turned)
    raise typer.Exit(group_photos(photos, out, source, device, threshold, copy, detect))


def group_photos(
    photos: Path,
    out: Path,
    model: UserModel,
    device: str,
    threshold: float | None = None,
    copy: bool = False,
    detect: DetectSettings | None = None,
) -> int:
    """Group the faces of a folder or list of photos, and return the exit code.

    Args:
        photos: A folder, a photo, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for the results.
        model: The model.
        device: The device to run on.
        threshold: The similarity above which faces are linked; None to compute it from the scores of the model.
        copy: Whether the folders of people get copies of the photos and not links.
        detect: The settings of the detector, which choose all faces; None for the defaults.
    """
    source = list_inputs(photos, out)
    with embed_all_faces(source, out, model, device, "group", detect) as faces:
        if not is_first():  # the first process groups for all
            return 0
        missed, failed = read_failures(out)
        replace(faces, threshold=threshold, copy=copy).save()
        grouped = regroup(out)
    print_failures([*failed, *missed], out / FAILURES)
    _print_summary(grouped)
    return 1 if failed else 0


@contextlib.contextmanager
def embed_all_faces(
    photos: PhotoInput,
    out: Path,
    model: UserModel,
    device: str,
    command: str,
    detect: DetectSettings | None = None,
) -> Iterator[GroupedPhotos]:
    """Detect and embed every face of the photos and yield them, without people yet.

    OUT gets the description of the model and the list of failures. No other call deletes the features before the block
    ends.

    Args:
        photos: The photos.
        out: The folder for the results.
        model: The model.
        device: The device to run on.
        command: The name of the command.
        detect: The settings of the detector, which choose all faces; None for the defaults.
    """
    steps = embed_steps(UserPhotos(photos.root), model, detect or DetectSettings(choose="all"))
    with run_on_folder(photos, out, device, steps, command) as done:
        publish(describe_model(model, out) | {FAILURES: failures_file(done["align/photos"], photos, out)}, out)
        missed, failed = read_failures(out)
        config = {key: model.config.get(key) for key in ("verification", "feature_size")}
        about = {"name": model.name, "network": model.network, "input": model.input, "content": model.content}
        folder, table = done["embed"].folder.relative_to(out).as_posix(), _table(done, photos, out)
        counts = {"undetected": len(missed), "failed": len(failed)}
        yield GroupedPhotos(out, photos.root.absolute(), about | {"config": config}, folder, table, counts)


def _table(done: dict[str, Artefact], source: PhotoInput, out: Path) -> Table:
    """Return the columns of `people.parquet` for all faces, of which the person is not known yet."""
    crops = read_parquet(done["align/photos"].folder / CROP_TABLE, CROP_COLUMNS)
    faces = read_parquet(done["detect/photos"].folder / FACES, FACE_COLUMNS)
    photos, numbers = crops["photo"], number_faces(crops["photo"], faces)
    boxes = dict(zip(zip(faces["photo"], faces["face"], strict=True), faces["box"], strict=True))
    digests = RunContext(out / CACHE, Console(quiet=True)).photo_folder(source.root).digests
    folder = (done["align/photos"].folder / CROPS).relative_to(out).as_posix()
    return {
        "photo": photos,
        "face": numbers,
        "person": [""] * len(photos),
        "name": [""] * len(photos),
        "confidence": [None] * len(photos),
        "box": [boxes.get(face) for face in zip(photos, numbers, strict=True)],
        "crop": [f"{folder}/{crop}" for crop in crops["crop"]],
        "digest": [digests[photo] for photo in photos],
    }


def _print_summary(grouped: GroupedPhotos) -> None:
    out, photos_of = grouped.folder, People.of(grouped).photos
    several = int((photos_of > 1).sum())
    people = f"{several} {'person' if several == 1 else 'people'} with at least two photos"
    once = f"{len(photos_of) - several} seen once"
    undetected, failed = (grouped.counts[key] for key in ("undetected", "failed"))
    print(f"{quantity(len(grouped.table['photo']), 'face')}: {people}, {once}; "
          f"{quantity(undetected, 'photo')} without a face, {failed} failed: {out}")  # fmt: skip
    threshold = grouped.linked_above or 0.0
    print(f"faces are linked above a similarity of {threshold:.3f}", end="")
    if not grouped.rule or not grouped.rule.has_scores:
        print(" (--threshold)" if grouped.threshold is not None else ", estimated from the photos")
        if grouped.threshold is None:
            name = grouped.model["name"]
            remedy = f"measure it and the confidence of faces: sfplus calibrate {name} PHOTOS PAIRS"
            print(f"warning: the estimate assumes that the photos show many people; {remedy}", file=sys.stderr)
    else:
        linked, pairs = grouped.rule.rates(threshold)[1], grouped.rule.verification["pairs"]
        print(f", which {100 * linked:.0f} % of the pairs of the same person reach ({pairs})")
        if linked < _WEAK:
            remedy = "a stronger model finds more photos of each person: --model"
            print(f"warning: this model parts most photos of a person; {remedy}", file=sys.stderr)
    print(f"look at {out / PEOPLE_HTML}; give names there or in {out / PEOPLE_CSV}, and run this command again")
