"""Find the photos of a person."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from sfplus.artifacts.context import is_first
from sfplus.cli.command import App
from sfplus.cli.compare import describe_box, read_faces
from sfplus.cli.detect import detect_settings
from sfplus.cli.group import embed_all_faces
from sfplus.cli.json_results import print_result
from sfplus.cli.options import AsJson, ChooseOne, DetectorName, Device, ModelInputText, ModelName, ModelNetwork, Turned
from sfplus.cli.photo_folders import FOUND_CSV
from sfplus.cli.photo_inputs import keep_apart, list_inputs
from sfplus.cli.photo_results import FoundPhoto, FoundPhotos
from sfplus.detection.choose import Rule
from sfplus.detection.registry import MTCNN
from sfplus.embedder import Embedder
from sfplus.errors import UsageError, one_line
from sfplus.images import CACHE, encode_image, list_photos
from sfplus.io.console import quantity
from sfplus.io.files import check_folder, check_input, write_atomically
from sfplus.io.loggers import get_logger
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import read_failures
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.search import Matches, search_faces
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.steps import UserModel
from sfplus.reports.people_page import FaceView, photo_link, render_matches

app = App()
_log = get_logger(__name__)
FOUND_HTML = "found.html"
_PRINTED, _SHOWN = 20, 500  # photos at most, on the console and on the page


@app.command()
def find(
    person: Annotated[
        list[Path], typer.Argument(metavar="PERSON.jpg", help="Photos of the person, or a folder of them.")
    ],
    photos: Annotated[
        Path,
        typer.Argument(metavar="PHOTOS", help="A folder or list of photos, or the result of `sfplus group`."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for found.html and found.csv.")] = Path("found"),
    model: ModelName = "",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    choose: ChooseOne = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the photos of a person: lists them, best first, with the probability that each shows this person.

    found.html shows the photos and found.csv lists them. Several photos of the person find more than one. With the
    result of `sfplus group` nothing is detected again.

    The exit code is 1 if a photo could not be read: see failures.jsonl in OUT.

    Example: sfplus find anna-1.jpg anna-2.jpg holiday --out anna
    """
    source = UserModel(model, network, input) if model else None
    detect = detect_settings(choose="all", detector=detector, turned=turned)
    raise typer.Exit(find_person(person, photos, out, source, device, choose, detect, as_json))


def find_person(
    person: Sequence[Path],
    photos: Path,
    out: Path,
    model: UserModel | None,
    device: str,
    choose: Rule = "centre",
    detect: DetectSettings | None = None,
    as_json: bool = False,
) -> int:
    """Search for a person in photos, print and write what was found, and return the exit code.

    Args:
        person: Photos of the person, or folders of them.
        photos: A folder or list of photos, or the result of `sfplus group`.
        out: The folder for the results.
        model: The model; None for the default, or for that of the grouped photos.
        device: The device to run on.
        choose: Which of several faces in a photo of the person is searched.
        detect: The settings of the detector, which choose all faces; None for the defaults. Of grouped photos, those
            of the person alone are detected.
        as_json: Whether to print the result as JSON.

    Raises:
        UsageError: If the model is not that of the grouped photos.
        PhotoError: If a photo of the person cannot be read or shows no face.
    """
    for path in person:
        check_input(path)
    check_folder(out)
    keep_apart(photos, out)
    grouped = GroupedPhotos.load(photos) if GroupedPhotos.exists(photos) else None
    source = _choose_model(model, grouped)
    files = [path for path in person if not path.is_dir()]
    files += [folder / name for folder in person if folder.is_dir() for name in list_photos(folder)]
    if not files:
        raise UsageError("there is no photo in this folder", where=person[0], remedy="give a photo of the person")
    detect = detect or DetectSettings(choose="all")
    embedder = Embedder(
        source.name, device, network=source.network, input=source.input, choose=choose, detector=detect.detector,
        turned=detect.turned,
    )  # fmt: skip
    examples = [_embed(path, embedder, choose) for path in files]
    with contextlib.ExitStack() as stack:
        if grouped is None:
            inputs = list_inputs(photos, out)
            grouped = stack.enter_context(embed_all_faces(inputs, out, source, device, "find", detect))
        if not is_first():  # the first process searches for all
            return 0
        matches = _best_faces(grouped, np.stack([example.feature for example in examples]))
        _write(grouped, matches, examples, out)
        print_result(_describe(matches, grouped, out), _lines(matches, grouped, out), as_json)
        return 1 if grouped.folder == out and read_failures(out)[1] else 0


def _choose_model(model: UserModel | None, grouped: GroupedPhotos | None) -> UserModel:
    if grouped is None:
        return model or UserModel(DEFAULT_MODEL)
    about = grouped.model
    source = model or UserModel(about["name"], about["network"], about["input"])
    if source.content != about["content"]:
        reason, remedy = f"were grouped with another model, {about['name']}", "group them again, or omit --model"
        raise UsageError(reason, where=grouped.folder, remedy=remedy)
    return source


@dataclass(frozen=True, eq=False)
class _Example:
    """A photo of the person, with the feature and the crop of the face."""

    path: Path
    feature: NDArray[np.float32]
    crop: NDArray[np.uint8]


def _embed(path: Path, embedder: Embedder, choose: Rule) -> _Example:
    """Embed the chosen face of a photo, and log which of several faces it is."""
    faces, used = read_faces(embedder, path, choose)
    if len(faces) > 1:
        name = describe_box(faces.boxes[used])
        _log.info("%s has %d faces; the one of %s is searched (--choose %s)", path, len(faces), name, choose)
    return _Example(path, faces.features[used], faces.crops[used])


def _best_faces(faces: GroupedPhotos, features: NDArray[np.float32]) -> Matches:
    matches = search_faces(features, faces.features, faces.rule).best_by_photo(faces.table["photo"], _PRINTED)
    return matches if matches.has_probabilities else matches.first(_SHOWN)


def _write(faces: GroupedPhotos, matches: Matches, examples: Sequence[_Example], out: Path) -> None:
    (out / CACHE).mkdir(parents=True, exist_ok=True)  # first: it marks OUT as one of sfplus
    table, text = faces.table, io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["photo", "face", "similarity", "probability"])
    views = []
    for row, similarity, probability in matches:
        is_rated = matches.has_probabilities
        photo, face = table["photo"][row], table["face"][row]
        writer.writerow([photo, face, f"{similarity:.4f}", f"{probability:.4f}" if is_rated else ""])
        link = photo_link((faces.photos / photo).resolve(), out.resolve())
        crop = faces.folder / table["crop"][row]
        views.append(FaceView(photo, face or 0, crop, link, probability if is_rated else None, similarity=similarity))
    write_atomically(out / FOUND_CSV, text.getvalue().encode())
    tiles = []
    for number, example in enumerate(examples):
        file = out / CACHE / "examples" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, encode_image(example.crop, ".png"))
        tiles.append(FaceView(example.path.name, 0, file, photo_link(example.path.resolve(), out.resolve())))
    title, more = f"Photos of {examples[0].path.stem}", max(0, len(views) - _SHOWN)
    write_atomically(out / FOUND_HTML, render_matches(title, tiles, views[:_SHOWN], more=more).encode())


def _describe(matches: Matches, faces: GroupedPhotos, out: Path) -> FoundPhotos:
    names, numbers, is_rated = faces.table["photo"], faces.table["face"], matches.has_probabilities
    photos = [
        FoundPhoto(names[row], numbers[row], float(similarity), float(probability) if is_rated else None)
        for row, similarity, probability in matches
    ]
    return FoundPhotos(photos, out / FOUND_HTML)


def _lines(matches: Matches, faces: GroupedPhotos, out: Path) -> Iterator[str]:
    has_scores, likely = matches.has_probabilities, int((matches.probabilities >= 0.5).sum())
    for row, similarity, probability in matches.first(min(max(likely, 5), _PRINTED) if has_scores else _PRINTED):
        chance = f"{100 * probability:3.0f} %  " if has_scores else ""
        yield f"{chance}{similarity:6.3f}  {one_line(faces.table['photo'][row])}"
    if has_scores:
        verb = "is" if likely == 1 else "are"
        yield f"{quantity(likely, 'photo')} {verb} more likely than not to show this person: {out / FOUND_HTML}"
    else:
        yield f"the most similar photos; this model has no scores to tell how likely they are: {out / FOUND_HTML}"
