"""Compare the faces of two photos: similarity and decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import sfplus
from sfplus.cli.command import App
from sfplus.cli.json_results import print_result
from sfplus.cli.options import AsJson, ChooseOne, DetectorName, Device, ModelInputText, ModelName, ModelNetwork, Turned
from sfplus.cli.photo_results import ComparedFace, ComparedPhoto, Comparison
from sfplus.detection.choose import Rule
from sfplus.detection.choose import choose as choose_face
from sfplus.detection.registry import MTCNN
from sfplus.embedded_faces import EmbeddedFaces
from sfplus.errors import PhotoError, UsageError, one_line
from sfplus.images import encode_image, read_photo
from sfplus.io.files import check_folder, check_input, write_atomically
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import NO_FACE
from sfplus.verification.decision import explain_similarity

app = App()


def compare_photos(
    first: Path,
    second: Path,
    model: str,
    far: float | None,
    out: Path | None,
    device: str,
    *,
    network: str = "",
    input: str = "",
    choose: Rule = "centre",
    detector: str = MTCNN,
    turned: bool = False,
    as_json: bool = False,
) -> None:
    """Print the similarity of the faces in two photos and, if the model has a threshold, whether they are one person.

    Args:
        first: a photo.
        second: another photo.
        model: a model, as `Embedder` takes it; empty for the default model.
        far: the false accept rate to decide at; None for the threshold of the verification.
        out: a folder for the two crops, or None.
        device: the device to run on.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`); no threshold applies to another input.
        choose: which of several faces to compare; the numbers of the others are printed too.
        detector: the detector (see `Embedder`).
        turned: whether faces are also found that lie on their side or upside down.
        as_json: whether to print the result as JSON.

    Raises:
        UsageError: If a FAR is asked for and the model has no threshold, or `out` is not a folder.
        PhotoError: If a photo cannot be read or has no face.
    """
    if out:
        check_folder(out)
    for path in (first, second):
        check_input(path, "file")
    embedder = sfplus.Embedder(
        model or DEFAULT_MODEL, device, choose=choose, network=network, input=input, detector=detector, turned=turned
    )
    rule = embedder.decision_rule
    if rule:
        rule.threshold(far)  # fail before the photos are read
    elif far is not None:
        remedy = f"measure them: sfplus calibrate {model} PHOTOS PAIRS"
        raise UsageError("this model has no error rates", where=f"--far {far:g}", remedy=remedy)
    paths = (first, second)
    photos = [read_faces(embedder, path, choose) for path in paths]
    left, right = (faces.features[used] for faces, used in photos)
    score = embedder.similarity(left, right)
    lines = [rule.explain(score, far) if rule else explain_similarity(score, model)]
    compared = []
    for letter, path, (faces, used), opposite in zip("AB", paths, photos, (right, left), strict=True):
        photo = _describe_photo(path, faces, used, embedder.similarity(faces.features, opposite))
        if out:
            out.mkdir(parents=True, exist_ok=True)
            crop = out / f"{letter}-{path.stem}.png"
            write_atomically(crop, encode_image(faces.crops[used], ".png"))
            photo = replace(photo, crop=crop)
        lines += _describe_other_faces(photo, choose)
        compared.append(photo)
    lines += [f"crop {letter}: {photo.crop}" for letter, photo in zip("AB", compared, strict=True) if photo.crop]
    threshold = rule.threshold(far) if rule else None
    same = None if threshold is None else float(np.float32(score)) > threshold
    result = Comparison(model or DEFAULT_MODEL, float(score), same, threshold, far, compared)
    print_result(result, lines, as_json)


def read_faces(embedder: sfplus.Embedder, path: Path, rule: Rule) -> tuple[EmbeddedFaces, int]:
    """Return the faces of a photo, and the index of the one that the rule chooses."""
    photo = read_photo(path)
    try:
        faces = embedder.faces(photo)
    except PhotoError as error:
        raise PhotoError(error.reason, where=path, remedy=error.remedy) from error
    choice = choose_face(faces, photo.shape[0], photo.shape[1], rule)
    if choice is None:
        raise PhotoError(NO_FACE, where=path, remedy="choose a photo with a larger, clearer face")
    return faces, choice.index


def describe_box(box: Sequence[float] | NDArray[np.float32]) -> str:
    """Return the size and the place of a face, as messages name it."""
    x1, y1, x2, y2 = box
    return f"{x2 - x1 + 1:.0f}x{y2 - y1 + 1:.0f} at x {x1:.0f}, y {y1:.0f}"


def _describe_photo(path: Path, faces: EmbeddedFaces, used: int, scores: Any) -> ComparedPhoto:
    return ComparedPhoto(
        str(path),
        [
            ComparedFace([round(float(side), 2) for side in box], index == used, float(score))
            for index, (box, score) in enumerate(zip(faces.boxes, scores, strict=True))
        ],
    )


def _describe_other_faces(photo: ComparedPhoto, choose: Rule) -> list[str]:
    """Return lines that say which of several faces was compared, and the similarity of each of the others."""
    if len(photo.faces) == 1:
        return []
    (used,) = (describe_box(face.box) for face in photo.faces if face.compared)
    compared = f"the one of {used} was compared (--choose {choose})"
    ignored_faces = [face for face in photo.faces if not face.compared]
    return [
        f"{one_line(photo.photo)} has {len(photo.faces)} faces; {compared}. The others:",
        *(f"  {describe_box(face.box)}: similarity {face.similarity:.3f}" for face in ignored_faces),
    ]


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.jpg", help="The first photo.")],
    second: Annotated[Path, typer.Argument(metavar="B.jpg", help="The second photo.")],
    model: ModelName = "",
    far: Annotated[
        float | None,
        typer.Option("--far", help="Decide where at most this fraction of different people is accepted: 0.001."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder for the two crops.")] = None,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    choose: ChooseOne = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare the faces of two photos: similarity, and the decision at the model's threshold or at a FAR.

    Of several faces in a photo, --choose says which one is compared; the numbers of the others are printed below.

    A model without a threshold gives the similarity only; sfplus calibrate measures one.

    Example: sfplus compare anna.jpg anna-2019.jpg --far 0.001 --out crops
    """
    compare_photos(
        first, second, model, far, out, device, network=network, input=input, choose=choose, detector=detector,
        turned=turned, as_json=as_json,
    )  # fmt: skip
