"""Measure how often a person is found in a gallery of people and distractors, and write a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.inputs import ModelInput
from sfplus.artifacts.layout import FEATURE_COLUMNS, FEATURE_INDEX, read_features
from sfplus.artifacts.model_facts import ModelFacts
from sfplus.cli.command import App
from sfplus.cli.detect import detect_settings, refuse_with_crops
from sfplus.cli.embed import embed_steps
from sfplus.cli.options import (
    DATA,
    ChooseOne,
    DetectorName,
    Device,
    ModelInputText,
    ModelName,
    ModelNetwork,
    PeopleFolders,
    ReportFolder,
    Title,
    Turned,
    Workspace,
)
from sfplus.cli.person_features import holds_features
from sfplus.cli.report_folder import check_report_folder
from sfplus.cli.run import run_folder, this_command
from sfplus.datasets.records import PeopleRule, person_from_path
from sfplus.detection.registry import MTCNN
from sfplus.errors import DatasetError, UsageError
from sfplus.io.console import Console, quantity
from sfplus.io.files import check_input, file_digest, write_atomically
from sfplus.io.loggers import get_logger
from sfplus.io.memory import keep_freed_memory
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import read_failures, read_parquet
from sfplus.pipeline.execute import run_steps
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.steps import UserModel, UserPhotos
from sfplus.reports.html import HTML, Report, Undetected, render
from sfplus.verification import features as feature_files
from sfplus.verification.features import Features, check_features
from sfplus.verification.identification_rates import FPIRS, IdentificationRates
from sfplus.verification.identification_sets import PROBES_CSV, FeatureSet, identify_sets

_log = get_logger(__name__)

app = App()


@app.command()
def identify(
    photos: Annotated[
        Path,
        typer.Argument(metavar="PHOTOS", help="A folder with a folder of photos per person, or a file of features."),
    ],
    distractors: Annotated[
        list[Path] | None,
        typer.Option("--distractors", help="A folder of photos of other people, or their features; may be repeated."),
    ] = None,
    model: ModelName = "",
    network: ModelNetwork = "",
    input: ModelInputText = "",
    enrol: Annotated[
        int, typer.Option("--enrol", min=1, help="Photos of each person in the gallery, the first ones, averaged.")
    ] = 1,
    people: PeopleFolders = "path",
    crops: Annotated[bool, typer.Option("--crops", help="All folders hold crops that are aligned already.")] = False,
    choose: ChooseOne = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    out: ReportFolder = None,
    title: Title = "",
    device: Device = "auto",
    workspace: Workspace = DATA,
) -> None:
    """Measure how often a person is found in a gallery of people and distractors, and write a report.

    The first photo of each person forms the gallery, and the crowds are searched in it: the rank-k identification rate
    counts those whose person is among the k best. Photos of people with no other photo have nobody to be found: the
    open-set rate (TPIR) also requires a score that only 1 or 10 % of these photos reach. Distractors are added 10, 100,
    1,000 ... at a time. MegaFace's rate is measured too: one photo of the person among the distractors alone.

    OUT gets the report (html, json, md) and probes.csv, a line for each photo: its rank and its scores.

    Example: sfplus identify data/lfw --distractors UTKFace --distractors All-Age-Faces --model my/model

    Example: sfplus identify people.npz --distractors crowds.npz
    """
    source = UserModel(model or DEFAULT_MODEL, network, input)
    if crops:
        refuse_with_crops(detector, turned)
    folder = out or run_folder(workspace, f"identify-{photos.resolve().stem}")
    detect = detect_settings(choose=choose, detector=detector, turned=turned)
    options = {"--model": model, "--network": network, "--input": input}
    chosen = next((option for option, value in options.items() if value), "")
    sources = _Sources(source, workspace, device, detect, crops, chosen)
    identify_people(photos, distractors or [], sources, people, enrol, folder, title, this_command())


@dataclass(frozen=True)
class _Set:
    """The features of a set.

    Attributes:
        path: The folder or file.
        names: The photo of each feature.
        features: (N, d).
        digest: Of the content of the features.
        missed: The photos that could not be used, most of them without a face.
        device: On which they were computed; empty for a file of features.
    """

    path: Path
    names: list[str]
    features: Features
    digest: str
    missed: list[str] = field(default_factory=list)
    device: str = ""

    @property
    def total(self) -> int:
        """The number of photos."""
        return len(self.names) + len(self.missed)


@dataclass(frozen=True)
class _Sources:
    """How features are computed.

    Attributes:
        model: The model.
        workspace: The folder of the cache.
        device: The device to run on.
        detect: The settings of the detector.
        crops: Whether the folders hold crops.
        chosen: The option by which the user chose the model, which features from files do not need; empty for none.
    """

    model: UserModel
    workspace: Path
    device: str
    detect: DetectSettings
    crops: bool
    chosen: str

    def load(self, path: Path) -> _Set:
        """Return the features of a folder of photos, computed where they are not in the cache, or of a file."""
        if holds_features(path):
            names, features = feature_files.read_features(path)
            check_features(names, features, path)
            return _Set(path, names, features, file_digest(path))
        if not path.is_dir():
            reason = "is neither a folder of photos nor a file of features"
            raise UsageError(reason, where=path, remedy="give a folder, or .npz, .npy, .safetensors, .parquet or .csv")
        context = RunContext(self.workspace, Console(quiet=not is_first()), self.device)
        done = run_steps(embed_steps(UserPhotos(path), self.model, self.detect, self.crops), context)
        return self._read(done, context.console, path)

    def _read(self, done: dict[str, Artefact], console: Console, path: Path) -> _Set:
        artefact = done["embed"]
        missed, failed = read_failures(done["embed" if self.crops else "align/photos"].folder)
        if missed or failed:
            _log.warning(
                "%s: %s without a face, %d failed: left out", path, quantity(len(missed), "photo"), len(failed)
            )
        names = read_parquet(artefact.folder / FEATURE_INDEX, FEATURE_COLUMNS)["photo"]
        lost = [row["photo"] for rows in (missed, failed) for row in rows]
        features, device = read_features(artefact.folder)[0], artefact.manifest["device"]
        return _Set(path, list(names), features, artefact.content, lost, device)


def identify_people(
    photos: Path,
    distractors: list[Path],
    sources: _Sources,
    people: PeopleRule,
    enrolled: int,
    folder: Path,
    title: str = "",
    command: str = "",
) -> IdentificationRates | None:
    """Measure identification, print its rates and write the report; None in a process after the first.

    Args:
        photos: The photos of known people, or their features.
        distractors: The photos of other people, or their features.
        sources: How features are computed.
        people: Which of nested folders is the person.
        enrolled: The number of photos of a person in the gallery.
        folder: The folder for the report.
        title: The heading of the report.
        command: The command that repeats it.

    Raises:
        UsageError: If a set is neither a folder nor a file of features, or a model is given for features.
        DatasetError: If the features of two sets differ in length, all distractors are photos of an earlier set, or a
            photo is not in a person's folder.
        PairsError: If no person has enough photos.
    """
    if sources.chosen and all(map(holds_features, [photos, *distractors])):
        raise UsageError("does not go with features", where=sources.chosen, remedy="omit it, or give photos")
    for path in (photos, *distractors):
        check_input(path)
    check_report_folder(folder, None)
    keep_freed_memory()
    sets = [sources.load(photos)]
    for photo in sets[0].names:
        person_from_path(photo, DatasetError, people)  # before the work on distractors
    sets += [sources.load(path) for path in distractors]
    if not is_first():
        return None
    searched, *crowds = (FeatureSet(part.path, part.names, part.features, len(part.missed)) for part in sets)
    rates, probes = identify_sets(searched, crowds, people, enrolled)
    missed = [name for part in sets for name in part.missed]
    left_out = "They are left out: neither searched nor in the gallery."
    is_embedded = any(part.device for part in sets)
    name = ModelFacts.read(ModelInput(sources.model)).name if is_embedded else photos.resolve().stem
    report = Report(
        title=title or f"Identification on {photos.resolve().stem}",
        dataset=photos.resolve().stem,
        identification={name: rates},
        undetected=Undetected(left_out, missed, sum(part.total for part in sets)) if missed else None,
        hashes={f"features: {part.path}": part.digest for part in sets},
        versions=RunContext.versions(),
        device=", and ".join(dict.fromkeys(part.device for part in sets if part.device)),
        command=command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, folder)
    write_atomically(folder / PROBES_CSV, probes.encode())
    _print(rates)
    print(f"report: {folder / HTML}")
    return rates


def _print(rates: IdentificationRates) -> None:
    gallery = quantity(rates.people, "person", "people")
    print(f"{quantity(rates.probes, 'photo')} of {gallery} searched; {quantity(rates.strangers, 'photo')} of strangers")
    headings = [*(f"rank {k}" for k in rates.ranks), *(f"TPIR {100 * fpir:g} %" for fpir in FPIRS), "MegaFace"]
    print(f"{'distractors':>11} " + " ".join(f"{heading:>9}" for heading in headings))
    for row in rates.rows:
        values = [*row.rank, *row.tpir, row.megaface]
        texts = ["–" if value is None else f"{100 * value:.2f}" for value in values]
        print(f"{row.distractors:>11,} " + " ".join(f"{text:>9}" for text in texts))
