"""Group the faces of a folder of photos by person."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.layout import CROP_COLUMNS, CROP_TABLE, CROPS, FACE_COLUMNS, FACES
from sfplus.cli.command import App
from sfplus.cli.detect import detect_settings
from sfplus.cli.embed import describe_model, embed_steps, number_faces
from sfplus.cli.json_results import print_result
from sfplus.cli.options import (
    AsJson,
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
from sfplus.cli.photo_results import GroupSummary
from sfplus.detection.registry import MTCNN
from sfplus.images import CACHE
from sfplus.io.console import Console, log_failures, quantity
from sfplus.io.loggers import get_logger
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import FAILURES, read_failures, read_parquet
from sfplus.people.grouped_photos import GroupedPhotos, Table
from sfplus.people.names import PEOPLE_CSV
from sfplus.people.people_list import People
from sfplus.people.regroup import PEOPLE_HTML, regroup
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.steps import UserModel, UserPhotos

_log = get_logger(__name__)

app = App()
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
    as_json: AsJson = False,
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
    raise typer.Exit(group_photos(photos, out, source, device, threshold, copy, detect, as_json))


def group_photos(
    photos: Path,
    out: Path,
    model: UserModel,
    device: str,
    threshold: float | None = None,
    copy: bool = False,
    detect: DetectSettings | None = None,
    as_json: bool = False,
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
        as_json: Whether to print the result as JSON.
    """
    source = list_inputs(photos, out)
    with embed_all_faces(source, out, model, device, "group", detect) as faces:
        if not is_first():  # the first process groups for all
            return 0
        missed, failed = read_failures(out)
        replace(faces, threshold=threshold, copy=copy).save()
        grouped = regroup(out)
    log_failures([*failed, *missed], out / FAILURES)
    summary = _summarise(grouped)
    print_result(summary, _lines(summary, grouped), as_json)
    _warn(grouped)
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


def _summarise(grouped: GroupedPhotos) -> GroupSummary:
    photos_of = People.of(grouped).photos
    several = int((photos_of > 1).sum())
    return GroupSummary(
        len(grouped.table["photo"]), several, len(photos_of) - several, grouped.counts["undetected"],
        grouped.counts["failed"], grouped.linked_above or 0.0, grouped.folder / PEOPLE_HTML,
    )  # fmt: skip


def _lines(summary: GroupSummary, grouped: GroupedPhotos) -> list[str]:
    people = f"{quantity(summary.people, 'person', 'people')} with at least two photos, {summary.once} seen once"
    missing = f"{quantity(summary.undetected, 'photo')} without a face, {summary.failed} failed"
    linked = f"faces are linked above a similarity of {summary.threshold:.3f}"
    reached = _reached(grouped)
    if reached is not None:
        linked += f", which {100 * reached:.0f} % of the pairs of the same person reach ({_pairs(grouped)})"
    else:
        linked += " (--threshold)" if grouped.threshold is not None else ", estimated from the photos"
    names = f"give names there or in {grouped.folder / PEOPLE_CSV}, and run this command again"
    faces = f"{quantity(summary.faces, 'face')}: {people}; {missing}: {grouped.folder}"
    return [faces, linked, f"look at {summary.page}; {names}"]


def _reached(grouped: GroupedPhotos) -> float | None:
    """Return the share of pairs of the same person that are linked; None if the model has no scores."""
    if not grouped.rule or not grouped.rule.has_scores:
        return None
    return grouped.rule.rates(grouped.linked_above or 0.0)[1]


def _pairs(grouped: GroupedPhotos) -> str:
    return str(grouped.rule.verification["pairs"]) if grouped.rule else ""


def _warn(grouped: GroupedPhotos) -> None:
    """Warn where many photos of a person may not have been found."""
    reached = _reached(grouped)
    if reached is None and grouped.threshold is None:
        remedy = f"measure it and the confidence of faces: sfplus calibrate {grouped.model['name']} PHOTOS PAIRS"
        _log.warning("the estimate assumes that the photos show many people; %s", remedy)
    elif reached is not None and reached < _WEAK:
        _log.warning("this model parts most photos of a person; a stronger model finds more photos of each: --model")
