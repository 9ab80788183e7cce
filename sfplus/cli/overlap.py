"""Find people of a test set in a training set, by their names and by their faces."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from sfplus.alignment import find_template
from sfplus.cli.options import Device, ModelName
from sfplus.datasets.collections import open_source
from sfplus.datasets.overlap import Means, Threshold, choose_threshold, is_number, match_features, match_names
from sfplus.datasets.parquet import Tables
from sfplus.datasets.records import Item, Source, person_of
from sfplus.embedder import Embedder
from sfplus.errors import DatasetError, PhotoError, UsageError
from sfplus.images import Pixels, encode_image
from sfplus.io.console import Console, ProgressLine
from sfplus.io.files import check_file, write_atomically
from sfplus.io.prefetch import prefetch_map
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.reports import contact_sheet
from sfplus.verification.features import Features, read_features
from sfplus.weights.model_folder import crop_template

app = typer.Typer()

_BATCH = 128
_SHOWN, _DRAWN = 30, 60  # pairs that are printed, and drawn
_FEATURES = (".npz", ".safetensors", ".parquet")

Decoded = tuple[Item, Pixels | PhotoError]
Answer = tuple[str, Features | PhotoError]


@dataclass(frozen=True)
class Suspicion:
    """Two people who may be one: names in the two sets, the cosine of their mean features (nan: unknown), and why."""

    train: str
    test: str
    cosine: float
    why: str


def overlap(
    train: Path,
    test: Path,
    model: str,
    out: Path | None,
    sheet: Path | None,
    *,
    crops: bool = False,
    pictures: int = 8,
    false_alarms: float = 0.01,
    device: str = "auto",
) -> list[Suspicion]:
    """Print the pairs of people who may be one, and write the list of those of the training set and a contact sheet.

    Args:
        train: a collection (see `open_source`), or a file of features named `person/photo` (see `read_features`).
        test: the same.
        model: makes the features.
        out: the list, for `exclude` in recipes and `sfplus pack --exclude`; None: none is written.
        sheet: a picture with a photo of each of the two, side by side; None: none is drawn.
        crops: the photos are aligned crops (those of packs are in any case).
        pictures: how many of each person are looked at, the first ones.
        false_alarms: how many people of the training set may be wrongly suspected for a person of the test set.
        device: as everywhere.

    Returns:
        The pairs, largest cosine first.

    Raises:
        UsageError: a sheet is wanted of features, a result cannot go where it should, `false_alarms` is not finite.
        DatasetError: a set cannot be read, or the features of the two are of different length.
    """
    if not math.isfinite(false_alarms):
        raise UsageError("is no number of people", where=f"--false-alarms {false_alarms}", remedy="for example 0.01")
    results = [path for path in (out, sheet) if path]
    for path in results:
        check_file(path)
    if sheet and (_holds_features(train) or _holds_features(test)):
        raise UsageError("features have no faces to draw", where="--sheet", remedy="give the photos")
    looker = _Looker(model, device, crops, pictures)
    if _holds_features(test):  # its length is compared before any work
        right, left = looker.look("test", test), looker.look("train", train)
    else:
        left, right = looker.look("train", train), looker.look("test", test)
    threshold = choose_threshold(left.means, right.means, false_alarms)
    found = _suspicions(left, right, threshold)
    print(f"{len(left.people)} people of {train} against {len(right.people)} of {test}")
    if numbers := sum(map(is_number, left.people + right.people)):
        print(f"{numbers} of them are called by a number, which says nothing: they are compared by face only")
    print(_said(threshold, len(left.means)))
    for row in found[:_SHOWN]:
        print(f"  {row.train:<32} {row.test:<32} {row.cosine:6.3f}  {row.why}")
    if len(found) > _SHOWN:
        print(f"  ... and {len(found) - _SHOWN} more")
    people = sorted({row.train for row in found})
    print(f"{len(people)} people to leave out" + (f": {out}" if out else ""))
    for path in results:
        path.parent.mkdir(parents=True, exist_ok=True)
    if out:
        _write_list(out, found, f"{train} and {test}: {_said(threshold, len(left.means))}")
    if sheet:
        write_atomically(sheet, encode_image(_draw(left, right, found[:_DRAWN]), ".png"))
    return found


@dataclass(frozen=True, eq=False)
class _Set:
    """What is known of a set: its people, their mean features (of those with a usable picture), where it comes from."""

    people: list[str]
    means: Means
    source: Source | None


class _Looker:
    """Makes mean features of people; the model is loaded once, and only if there are pictures."""

    def __init__(self, model: str, device: str, crops: bool, pictures: int) -> None:
        self._model, self._device, self._crops, self._pictures = model, device, crops, pictures
        self._console, self._widths = Console(), dict[Path, int]()
        self._embedder: Embedder | None = None

    def look(self, label: str, path: Path) -> _Set:
        means = Means()
        if _holds_features(path):
            names, features = read_features(path)
            self._compare(path, features.shape[1])
            for name, feature in zip(names, features, strict=True):
                means.add(person_of(name), feature.astype(np.float32))
            return _Set(means.people, means, None)
        source = open_source(path)
        for remark in source.remarks:
            self._console.warn(f"{path}: {remark}")
        everyone: Counter[str] = Counter()
        failures = []
        self._embedder = self._embedder or Embedder(self._model, self._device)
        self._compare(path, 2 * int(self._embedder.config["feature_size"]))
        with self._console.progress(label, resumed=False) as step:
            step.start(len(source), "pictures")
            for person, answer in self._answers(self._embedder, source, everyone, step):
                if isinstance(answer, PhotoError):
                    failures.append(answer)
                else:
                    means.add(person, answer)
        if failures:
            self._console.warn(f"{path}: {len(failures)} pictures cannot be used; the first: {failures[0]}")
        if unseen := len(everyone) - len(means):
            self._console.warn(f"{path}: {unseen} people have no picture that can be used; they go by name only")
        if not len(means):
            raise failures[0]
        return _Set(list(everyone), means, source)

    def _compare(self, path: Path, width: int) -> None:
        for other, known in self._widths.items():
            if known != width:
                reason = f"its features have {width} numbers, those of {other} {known}"
                raise DatasetError(reason, where=path, remedy="make both with the same model: sfplus embed, or --model")
        self._widths[path] = width

    def _answers(
        self, embedder: Embedder, source: Source, everyone: Counter[str], step: ProgressLine
    ) -> Iterator[Answer]:
        """A feature of each picture of the first ones of each person, or why there is none."""
        decoded = prefetch_map(_decode, self._chosen(source, everyone, step), 8, 2)
        if self._crops or source.kind == "pack":
            return _of_crops(embedder, decoded)
        return _of_photos(embedder, decoded)

    def _chosen(self, source: Source, everyone: Counter[str], step: ProgressLine) -> Iterator[Item]:
        for item in source.items():
            step.advance()
            if item.person:
                everyone[item.person] += 1
            if everyone[item.person] <= self._pictures:
                yield item


def _decode(item: Item) -> Decoded:
    try:
        return item, item.decode()
    except PhotoError as error:
        return item, PhotoError(error.reason, where=item.name, remedy=error.remedy)


def _of_crops(embedder: Embedder, decoded: Iterator[Decoded]) -> Iterator[Answer]:
    template = find_template(crop_template(embedder.config, embedder.folder))

    def checked() -> Iterator[tuple[str, Pixels | PhotoError]]:
        """Without the pixels of what is no crop, so that a batch is small."""
        for item, crop in decoded:
            if not isinstance(crop, PhotoError) and crop.shape[:2] != (template.height, template.width):
                size = f"{crop.shape[1]} x {crop.shape[0]}"
                remedy = "make crops with sfplus align, or leave --crops out"
                crop = PhotoError(f"is {size}, no crop of {template.name}", where=item.name, remedy=remedy)
            yield item.person, crop

    crops = checked()
    while batch := list(islice(crops, _BATCH)):
        good = []
        for person, crop in batch:
            if isinstance(crop, PhotoError):
                yield person, crop
            else:
                good.append((person, crop))
        features = embedder.features(crop for _, crop in good)
        yield from ((person, feature) for (person, _), feature in zip(good, features, strict=True))


def _of_photos(embedder: Embedder, decoded: Iterator[Decoded]) -> Iterator[Answer]:
    waiting: deque[str] = deque()
    failures: list[Answer] = []

    def photos() -> Iterator[Pixels]:
        for item, photo in decoded:
            if isinstance(photo, PhotoError):
                failures.append((item.person, photo))
                continue
            waiting.append(item.person)
            yield photo

    for answer in embedder.stream(photos()):
        yield waiting.popleft(), answer
    yield from failures


def _holds_features(path: Path) -> bool:
    return path.is_file() and path.suffix in _FEATURES and not (path.suffix == ".parquet" and Tables.fit(path))


def _suspicions(left: _Set, right: _Set, threshold: Threshold) -> list[Suspicion]:
    """Those by name and those by face, as one list."""
    by_face = {
        (left.means.people[row], right.means.people[column]): cosine
        for row, column, cosine in match_features(left.means, right.means, threshold.value)
    }
    by_name = {(left.people[row], right.people[column]) for row, column in match_names(left.people, right.people)}
    rows = [
        Suspicion(*pair, cosine, "face and name" if pair in by_name else "face") for pair, cosine in by_face.items()
    ]
    rows += [Suspicion(*pair, float("nan"), "name") for pair in sorted(by_name - set(by_face))]
    return rows


def _said(threshold: Threshold, people: int) -> str:
    expected = threshold.share * people
    known = (
        f"; the two halves of a person's pictures reach it for {100 * threshold.found:.0f} % of {threshold.same} people"
        if threshold.same
        else ""
    )
    return (
        f"suspected from cosine {threshold.value:.3f} on, which {threshold.share:.2g} of {threshold.different} pairs "
        f"of different people reach: about {expected:.2g} false alarms for each person of the test set{known}"
    )


def _write_list(out: Path, found: list[Suspicion], how: str) -> None:
    lines = [
        "# People to leave out, one a line, made by sfplus overlap. Lines that begin with # and a space are remarks.",
        f"# {how}",
    ]
    by_person: dict[str, list[Suspicion]] = {}
    for row in found:
        by_person.setdefault(row.train, []).append(row)
    for person, rows in by_person.items():
        lines += [
            f"# {row.test}: {row.why}" + (f", cosine {row.cosine:.3f}" if row.cosine == row.cosine else "")
            for row in rows
        ]
        lines.append(person)
    write_atomically(out, ("\n".join(lines) + "\n").encode())


def _draw(left: _Set, right: _Set, found: list[Suspicion]) -> Pixels:
    """A picture of each of the two people of each pair, side by side."""
    ours, theirs = _faces(left, {row.train for row in found}), _faces(right, {row.test for row in found})
    pictures = []
    for row in found:
        if row.train in ours and row.test in theirs:
            pictures += [(ours[row.train], f"{row.cosine:.2f} {row.train}"), (theirs[row.test], row.test)]
    title = f"{len(pictures) // 2} pairs: on the left of the training set, on the right of the test set"
    return np.asarray(contact_sheet.lay_out([(title, pictures)]), np.uint8)


def _faces(people: _Set, wanted: set[str]) -> dict[str, Image.Image]:
    faces: dict[str, Image.Image] = {}
    for item in people.source.items() if people.source else ():
        if item.person in wanted and item.person not in faces:
            _, picture = _decode(item)
            if not isinstance(picture, PhotoError):
                faces[item.person] = Image.fromarray(picture)
        if len(faces) == len(wanted):
            break
    return faces


@app.command("overlap")
def overlap_command(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The training set: as for sfplus pack, or features.")],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="The test set, likewise.")],
    model: ModelName = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="The list of people to write, for --exclude and exclude:.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="An image of the pairs, .png, for a person to look at.")
    ] = None,
    crops: Annotated[bool, typer.Option("--crops", help="The images are crops that are aligned already.")] = False,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Images of each person, the first ones.")] = 8,
    false_alarms: Annotated[
        float, typer.Option("--false-alarms", min=0, help="Expected number of wrong matches per person of TEST.")
    ] = 0.01,
    device: Device = "auto",
) -> None:
    """Find people of a test set in a training set, by their names and by their faces.

    Look at the pairs before you trust them: a small model misses people and matches different people.

    Example: sfplus overlap my/photos data/lfw --out in-lfw.txt --sheet in-lfw.png, then:
    sfplus run mine.yaml train.exclude=in-lfw.txt
    """
    overlap(
        train, test, model or DEFAULT_MODEL, out, sheet,
        crops=crops, pictures=pictures, false_alarms=false_alarms, device=device,
    )  # fmt: skip
