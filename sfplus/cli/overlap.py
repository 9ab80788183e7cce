"""Find people of a test set in a training set, by their names and by their faces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from sfplus.cli.command import App
from sfplus.cli.options import Device, ModelInputText, ModelName, ModelNetwork, PeopleFolders
from sfplus.cli.person_features import People, PersonFeatures, first_images, holds_features
from sfplus.datasets.collections import open_collection
from sfplus.datasets.identities import is_listable
from sfplus.datasets.overlap import Threshold, choose_threshold, is_numeric_name, match_features, match_names
from sfplus.datasets.records import PeopleRule
from sfplus.errors import UsageError, one_line
from sfplus.images import Pixels, encode_image
from sfplus.io.console import first_names, quantity
from sfplus.io.files import check_file, check_input, write_atomically
from sfplus.io.loggers import get_logger
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.reports.contact_sheet import compose_sheet
from sfplus.weights.find_model import ModelSource

_log = get_logger(__name__)

app = App()

_PRINTED, _DRAWN = 30, 60  # pairs of people


@dataclass(frozen=True)
class Match:
    """A pair of people who may be the same person.

    Attributes:
        train: name in the training set.
        test: name in the test set.
        cosine: cosine of the mean features; nan if the pair matches by name only.
        reason: "name", "face" or "face and name".
    """

    train: str
    test: str
    cosine: float
    reason: str


def overlap(
    train: Path,
    test: Path,
    model: str,
    out: Path | None,
    sheet: Path | None,
    *,
    crops: bool = False,
    images_per_person: int = 8,
    people: PeopleRule = "path",
    false_alarms: float = 0.01,
    network: str = "",
    input: str = "",
    device: str = "auto",
) -> list[Match]:
    """Print the pairs of people who may be the same, and write the list of people to exclude and the contact sheet.

    Args:
        train: a collection (see `open_collection`), or a file of features named `person/photo` (see `read_features`).
        test: the same for the test set.
        model: the model that computes features of images, as `Embedder` takes it; it needs no threshold.
        out: the list, for `exclude` in recipes and `sfplus pack --exclude`; None: no list.
        sheet: an image with one photo of each of the two people, side by side; None: no sheet.
        crops: the images are aligned crops; those of packs are in any case.
        images_per_person: number of images of each person to use, the first ones.
        people: which of nested folders is the person, see `person_from_path`.
        false_alarms: expected number of people of the training set that match a person of the test set wrongly.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`).
        device: name of the device, see `choose_device`.

    Returns:
        The matches, largest cosine first.

    Raises:
        UsageError: If a sheet of features is requested, a result cannot be written, or `false_alarms` is not finite.
        DatasetError: If a set cannot be read, or the features of the sets differ in length.
    """
    if not math.isfinite(false_alarms):
        raise UsageError("is not a finite number", where=f"--false-alarms {false_alarms}", remedy="for example 0.01")
    for path in (train, test):
        check_input(path)
    results = [path for path in (out, sheet) if path]
    for path in results:
        check_file(path)
    if sheet and (holds_features(train) or holds_features(test)):
        raise UsageError("features have no faces to draw", where="--sheet", remedy="give the photos")
    if not holds_features(test):
        open_collection(test, people=people)  # fails now, not after the training set is embedded
    person_features = PersonFeatures(ModelSource(model, network, input), device, crops, images_per_person, people)
    if holds_features(test):  # so that their length is checked before images are embedded
        right, left = person_features.compute("test", test), person_features.compute("train", train)
    else:
        left, right = person_features.compute("train", train), person_features.compute("test", test)
    threshold = choose_threshold(left.means, right.means, false_alarms)
    matches = _find_matches(left, right, threshold)
    summary = _describe(threshold, len(left.means))
    print(f"{quantity(len(left.names), 'person', 'people')} of {train} against {len(right.names)} of {test}")
    if numbers := sum(map(is_numeric_name, left.names + right.names)):
        verbs = ("has", "is") if numbers == 1 else ("have", "are")
        print("{} of them {} a number instead of a name and {} compared by face only".format(numbers, *verbs))
    print(summary)
    for match in matches[:_PRINTED]:
        print(f"  {one_line(match.train):<32} {one_line(match.test):<32} {match.cosine:6.3f}  {match.reason}")
    if len(matches) > _PRINTED:
        print(f"  ... and {len(matches) - _PRINTED} more")
    listed = {match.train for match in matches}
    print(f"{quantity(len(listed), 'person', 'people')} to leave out" + (f": {out}" if out else ""))
    for path in results:
        path.parent.mkdir(parents=True, exist_ok=True)
    if out:
        if unlisted := [person for person in listed if not is_listable(person)]:
            _log.warning("names that cannot be written to a list: %s; rename these folders", first_names(unlisted))
        _write_list(out, matches, f"{train} and {test}: {summary}")
    if sheet:
        write_atomically(sheet, encode_image(_draw(left, right, matches[:_DRAWN]), ".png"))
    return matches


def _find_matches(left: People, right: People, threshold: Threshold) -> list[Match]:
    """Return the matches by face, largest cosine first, and then those by name only."""
    by_face = {
        (left.means.people[row], right.means.people[column]): cosine
        for row, column, cosine in match_features(left.means, right.means, threshold.value)
    }
    by_name = {(left.names[row], right.names[column]) for row, column in match_names(left.names, right.names)}
    matches = [Match(*pair, cosine, "face and name" if pair in by_name else "face") for pair, cosine in by_face.items()]
    return matches + [Match(*pair, float("nan"), "name") for pair in sorted(by_name - set(by_face))]


def _describe(threshold: Threshold, people: int) -> str:
    expected = threshold.false_match_rate * people
    text = (
        f"people match from cosine {threshold.value:.3f} on, which {threshold.false_match_rate:.2g} "
        f"of {quantity(threshold.different_pairs, 'pair')} of different people reach: about {expected:.2g} false "
        "alarms for each person of the test set"
    )
    if threshold.people:
        text += (
            f"; two halves of the images of one person reach it for {100 * threshold.recall:.0f} % of "
            f"{quantity(threshold.people, 'person', 'people')}"
        )
    return text


def _write_list(out: Path, matches: list[Match], summary: str) -> None:
    lines = [
        "# People to leave out, one per line, written by sfplus overlap. # and a space start a comment.",
        f"# {one_line(summary)}",
    ]
    by_person: dict[str, list[Match]] = {}
    for match in matches:
        by_person.setdefault(match.train, []).append(match)
    for person, person_matches in by_person.items():
        lines += [
            f"# {one_line(match.test)}: {match.reason}"
            + ("" if math.isnan(match.cosine) else f", cosine {match.cosine:.3f}")
            for match in person_matches
        ]
        lines.append(person if is_listable(person) else f"# cannot be listed, rename the folder: {one_line(person)}")
    write_atomically(out, ("\n".join(lines) + "\n").encode())


def _draw(left: People, right: People, matches: list[Match]) -> Pixels:
    """Return a contact sheet with one image of each of the two people of each pair, uint8 RGB (H, W, 3)."""
    train_images = first_images(left, {match.train for match in matches})
    test_images = first_images(right, {match.test for match in matches})
    tiles = []
    for match in matches:
        if match.train in train_images and match.test in test_images:
            tiles += [
                (Image.fromarray(train_images[match.train]), f"{match.cosine:.2f} {match.train}"),
                (Image.fromarray(test_images[match.test]), match.test),
            ]
    title = f"{quantity(len(tiles) // 2, 'pair')}: the training set on the left, the test set on the right"
    return np.asarray(compose_sheet([(title, tiles)]), np.uint8)


@app.command("overlap")
def overlap_command(
    train: Annotated[
        Path,
        typer.Argument(metavar="TRAIN", help="The training set: as for sfplus pack, or a file of features."),
    ],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="The test set, in one of the same forms.")],
    model: ModelName = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write a list of the people for --exclude and exclude:.",
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw the pairs side by side into a .png file.")] = None,
    crops: Annotated[bool, typer.Option("--crops", help="The images are aligned crops.")] = False,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Use only the first images of each person.")] = 8,
    false_alarms: Annotated[
        float,
        typer.Option("--false-alarms", min=0, help="Expected number of wrong matches for one person of TEST."),
    ] = 0.01,
    people: PeopleFolders = "path",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    device: Device = "auto",
) -> None:
    """Find people of a test set in a training set, by their names and by their faces.

    Check the pairs before you use the list: a small model misses people and matches different people.

    Example: sfplus overlap my/photos data/lfw --out in-lfw.txt --sheet in-lfw.png, then:
    sfplus run mine.yaml train.exclude=in-lfw.txt
    """
    overlap(
        train, test, model or DEFAULT_MODEL, out, sheet,
        crops=crops, images_per_person=pictures, people=people, false_alarms=false_alarms,
        network=network, input=input, device=device,
    )  # fmt: skip
