"""The results that commands print as JSON, with `--json`: their fields, and how they are printed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sfplus.cli.photo_results import Comparison, FoundPhotos, GroupSummary
from sfplus.errors import one_line
from sfplus.io.console import quantity
from sfplus.recipes.key_reference import RecipeKey


@dataclass(frozen=True)
class VerifiedModel:
    """The accuracy of a model on pairs.

    Attributes:
        name: The name of the model in the report.
        accuracy: The mean accuracy of the folds, from 0 to 1.
        standard_error: Its standard error over the folds.
        protocol: The protocol.
        pairs: The number of pairs.
    """

    name: str
    accuracy: float
    standard_error: float
    protocol: str
    pairs: int

    @property
    def line(self) -> str:
        """The same for people."""
        figure = f"{100 * self.accuracy:.2f} % +- {100 * self.standard_error:.2f}"
        return f"{self.name}: {figure} ({self.protocol} protocol, {quantity(self.pairs, 'pair')})"


@dataclass(frozen=True)
class IdentifiedModel:
    """The identification rates of a model among all distractors.

    Attributes:
        name: The name of the model in the report.
        rates: `rank_1` and the other rank-k rates, and the open-set rates such as `tpir_at_fpir_0.01`, from 0 to 1;
            those that the photos cannot measure are left out.
        people: The number of people in the gallery.
        probes: The number of photos that were searched, whose person is in the gallery.
        strangers: The number of photos of people who are not in the gallery.
        distractors: The number of distractors.
    """

    name: str
    rates: dict[str, float]
    people: int
    probes: int
    strangers: int
    distractors: int

    @property
    def line(self) -> str:
        """The same for people."""
        names = {name: name.replace("_", " ").replace("tpir", "TPIR").replace("fpir", "FPIR") for name in self.rates}
        rates = ", ".join(f"{names[name]} {100 * rate:.2f} %" for name, rate in self.rates.items())
        photos = f"{self.probes:,} photo" + "s" * (self.probes != 1)
        return f"{self.name}: {rates} ({photos} of {self.people:,} people, {self.distractors:,} distractors)"


@dataclass(frozen=True)
class RunResult:
    """The result of `sfplus run`, `train`, `finetune`, `verify` and `report`.

    Attributes:
        models: The models that were verified.
        verdicts: The conclusions: which differences are significant, and what they show.
        metrics: The metrics of a classifier or generator of images.
        report: The report, or the page with the metrics; null if the last stage is an earlier one.
        artefacts: The folders of the results of all stages in the cache.
        identified: The models that people were identified with.
    """

    models: list[VerifiedModel] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    report: Path | None = None
    artefacts: dict[str, Path] = field(default_factory=dict)
    identified: list[IdentifiedModel] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The figures of the models for people."""
        return [*(one_line(row.line) for row in self.models), *(one_line(row.line) for row in self.identified)]


@dataclass(frozen=True)
class StageStatus:
    """A stage of the recipe of `sfplus status`, which prints a list of them.

    Attributes:
        stage: The name of the stage.
        state: `fresh`, `damaged`, `running`, `partial`, `stale` or `missing`.
        reason: Why it is in this state; empty if there is nothing to say.
        folder: The folder of its result; null if it is not fresh.
    """

    stage: str
    state: str
    reason: str
    folder: Path | None


@dataclass(frozen=True)
class Check:
    """A check of `sfplus doctor`, which prints a list of them.

    Attributes:
        name: What is checked.
        ok: Whether it is as it should be.
        text: What is there.
        remedy: What to do; empty if it is as it should be.
    """

    name: str
    ok: bool
    text: str
    remedy: str


@dataclass(frozen=True)
class KnownModel:
    """A model of `sfplus models info`; `sfplus models list` prints a list of them.

    Attributes:
        name: The name for `--model`.
        status: `shipped`, `fetched`, `download`, `by hand` or `not released`.
        what: The model in one line.
        network: The network; empty for an ONNX file.
        crops: The crops that it takes.
        lfw: The published accuracy on LFW in percent; null if it is no face network.
        runs: The accuracies of all published runs in percent.
        protocol: The protocol of these accuracies.
        verified: What this project measured with the file; empty if nothing.
        data: The data that it was trained on.
        licence: The licence.
        source: The source of these facts.
        addresses: Where the file is.
        files: The SHA-256 of each file.
    """

    name: str
    status: str
    what: str
    network: str
    crops: str
    lfw: float | None
    runs: list[float]
    protocol: str
    verified: str
    data: str
    licence: str
    source: str
    addresses: list[str]
    files: dict[str, str]


@dataclass(frozen=True)
class KnownRecipe:
    """A recipe of `sfplus recipes list`, which prints a list of them.

    Attributes:
        name: The name.
        about: `faces` or `images`.
        header: What it does, in one line.
    """

    name: str
    about: str
    header: str


@dataclass(frozen=True)
class RecipeCheck:
    """The result of `sfplus recipes check` for a valid recipe; of others it is the exit code 2, and one line.

    Attributes:
        recipe: The file.
        stages: The names of its stages, in the order in which they run.
        missing: What has to be there to run it, and is not; empty if nothing is missing.
    """

    recipe: Path
    stages: list[str]
    missing: str


# command -> the type of its result, and whether it prints a list of them
RESULTS = MappingProxyType(
    {
        "run": (RunResult, False),
        "train": (RunResult, False),
        "finetune": (RunResult, False),
        "verify": (RunResult, False),
        "report": (RunResult, False),
        "compare": (Comparison, False),
        "group": (GroupSummary, False),
        "find": (FoundPhotos, False),
        "status": (StageStatus, True),
        "doctor": (Check, True),
        "models list": (KnownModel, True),
        "models info": (KnownModel, False),
        "recipes list": (KnownRecipe, True),
        "recipes check": (RecipeCheck, False),
        "recipes keys": (RecipeKey, True),
    }
)


def print_result(result: object, lines: Iterable[str], as_json: bool) -> None:
    """Print the result of a command.

    Args:
        result: The result, a value of `RESULTS`.
        lines: The same for people.
        as_json: Whether to print the result as one JSON document.
    """
    if as_json:
        print(json.dumps(_plain(result), indent=2, allow_nan=False))  # ASCII: any name is read back as it was
        return
    for line in lines:
        print(line)


def _plain(value: Any) -> Any:
    """Return a value of JSON; a number that JSON does not have becomes null."""
    if dataclasses.is_dataclass(value):
        return {key.name: _plain(getattr(value, key.name)) for key in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
