"""Compare the faces of two photos: similarity and decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import sfplus
from sfplus.cli.options import ChooseOne, DetectorName, Device, ModelInputText, ModelName, ModelNetwork, Turned
from sfplus.detection.choose import Rule
from sfplus.detection.choose import choose as choose_face
from sfplus.detection.registry import MTCNN
from sfplus.embedded_faces import EmbeddedFaces
from sfplus.errors import PhotoError, UsageError, one_line
from sfplus.images import encode_image, read_photo
from sfplus.io.files import check_folder, write_atomically
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import NO_FACE
from sfplus.verification.decision import explain_similarity

app = typer.Typer(add_completion=False)


def compare_photos(
    first: Path,
    second: Path,
    model: str,
    far: float | None,
    save: Path | None,
    device: str,
    *,
    network: str = "",
    input: str = "",
    choose: Rule = "centre",
    detector: str = MTCNN,
    turned: bool = False,
) -> None:
    """Print the similarity of the faces in two photos and, if the model has a threshold, whether they are one person.

    Args:
        first: a photo.
        second: another photo.
        model: a model, as `Embedder` takes it; empty for the default model.
        far: the false accept rate to decide at; None for the threshold of the verification.
        save: a folder for the two crops, or None.
        device: the device to run on.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`); no threshold applies to another input.
        choose: which of several faces to compare; the numbers of the others are printed too.
        detector: the detector (see `Embedder`).
        turned: whether faces are also found that lie on their side or upside down.

    Raises:
        UsageError: If a FAR is asked for and the model has no threshold, or `save` is not a folder.
        PhotoError: If a photo cannot be read or has no face.
    """
    if save:
        check_folder(save)
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
    print(rule.explain(score, far) if rule else explain_similarity(score, model))
    for path, (faces, used), other in zip(paths, photos, (right, left), strict=True):
        _print_other_faces(path, faces, used, embedder.similarity(faces.features, other), choose)
    if save:
        save.mkdir(parents=True, exist_ok=True)
        for letter, path, (faces, used) in zip("AB", paths, photos, strict=True):
            target = save / f"{letter}-{path.stem}.png"
            write_atomically(target, encode_image(faces.crops[used], ".png"))
            print(f"crop {letter}: {target}")


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


def describe_box(box: NDArray[np.float32]) -> str:
    """Return the size and the place of a face, as messages name it."""
    x1, y1, x2, y2 = box
    return f"{x2 - x1 + 1:.0f}x{y2 - y1 + 1:.0f} at x {x1:.0f}, y {y1:.0f}"


def _print_other_faces(path: Path, faces: EmbeddedFaces, used: int, scores: Any, choose: Rule) -> None:
    """Print which of several faces of a photo was compared, and the similarity of each of the others."""
    if len(faces) == 1:
        return
    names = [describe_box(box) for box in faces.boxes]
    used_face = f"the one of {names[used]} was compared (--choose {choose})"
    print(f"{one_line(path)} has {len(faces)} faces; {used_face}. The others:")
    for index, (name, score) in enumerate(zip(names, scores, strict=True)):
        if index != used:
            print(f"  {name}: similarity {score:.3f}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.jpg", help="The first photo.")],
    second: Annotated[Path, typer.Argument(metavar="B.jpg", help="The second photo.")],
    model: ModelName = "",
    far: Annotated[
        float | None,
        typer.Option("--far", help="Decide where at most this fraction of different people is accepted: 0.001."),
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="A folder for the two crops.")] = None,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    choose: ChooseOne = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    device: Device = "auto",
) -> None:
    """Compare the faces of two photos: similarity, and the decision at the model's threshold or at a FAR.

    Of several faces in a photo, --choose says which one is compared; the numbers of the others are printed below.

    A model without a threshold gives the similarity only; sfplus calibrate measures one.

    Example: sfplus compare anna.jpg anna-2019.jpg --far 0.001 --save crops
    """
    compare_photos(
        first, second, model, far, save, device, network=network, input=input, choose=choose, detector=detector,
        turned=turned,
    )  # fmt: skip
