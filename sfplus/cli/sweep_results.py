"""What the runs of a sweep came to: figures of each, rows of its table, differences from the control."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.artifacts.cache import Artefact
from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.image_tasks.classify_stage import FEATURES
from sfplus.io.files import write_atomically, write_or_remove
from sfplus.io.tables import read_json_lines
from sfplus.pipeline import plan as chain
from sfplus.recipes.sweep_grid import VARIANT, Configuration
from sfplus.reports.sweep_table import LEVEL, ControlDifference, SweepRow, SweepTable, format_metric, to_markdown
from sfplus.stages.report import ReportSettings
from sfplus.stages.verify import read_result
from sfplus.training.history import HISTORY
from sfplus.verification.bootstrap import Interval, people_intervals, stratified_mean
from sfplus.verification.curves import accuracy_interval
from sfplus.verification.result import Result
from sfplus.verification.significance import mcnemar
from sfplus.weights import CONFIG, HEAD

_AMOUNTS = frozenset({"steps", "seconds", "people", "crops", "pairs", "pictures", "train_pictures", "test_pictures"})
_MAIN = ("accuracy", "inception_score", "surrogate_score", "training_accuracy")
_CLASSES = 20_000  # of a larger classifier the first so many are measured


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a configuration with one seed, and its steps, of which those of the last stage measure."""

    configuration: Configuration
    seed: int
    steps: list[chain.Step]

    @property
    def measuring(self) -> list[str]:
        """The names of the steps of the last stage."""
        return [step.name for step in self.steps if step.stage is self.steps[-1].stage]

    def label(self, recipe: str) -> str:
        """What it is called, without the seed."""
        return ", ".join(self.configuration.choices.values()) or recipe


@dataclass(frozen=True)
class Found:
    """What a run found in a step.

    Attributes:
        artefact: of that step.
        metrics: its figures.
        history: of the training behind it.
        result: of the verification, where that is the step.
        pairs: of the result.
    """

    artefact: Artefact
    metrics: dict[str, float]
    history: list[dict[str, Any]] = field(default_factory=list)
    result: Result | None = None
    pairs: Pairs | None = None


def measure(name: str, artefacts: Mapping[str, Artefact]) -> Found:
    """The figures of a step that has been run."""
    artefact = artefacts[name]
    stage = artefact.manifest["stage"]
    metrics = _figures(artefact)
    if stage == "verify":
        model = artefacts.get(name.removeprefix("verify/"))
        result, pairs = read_result(artefact.folder)
        if model is None:  # a model that was given
            return Found(artefact, metrics, [], result, pairs)
        metrics |= {"training_loss": _figures(model).get("loss", math.nan)} | _classifier(model.folder)
        return Found(artefact, metrics, _history(model), result, pairs)
    if stage in ("train", "finetune"):
        metrics = {f"training_{key}": value for key, value in metrics.items()} | _classifier(artefact.folder)
    return Found(artefact, metrics, _history(artefact))


def rows_of(
    cells: Sequence[Cell], found: Mapping[int, Mapping[str, Found]], recipe: str, whole: bool = True
) -> list[SweepRow]:
    """The rows of the table: each configuration with its seeds, before it what it started from, named once.

    Args:
        cells: of the sweep.
        found: by the index of the cell and the name of the step.
        recipe: its name, for a sweep of one configuration.
        whole: with intervals and differences from the control, which take a while.
    """
    runs: dict[str, dict[int, Mapping[str, Found]]] = {cell.label(recipe): {} for cell in cells}
    choices = {cell.label(recipe): cell.configuration.choices for cell in cells}
    for index, steps in sorted(found.items()):
        runs[cells[index].label(recipe)][cells[index].seed] = steps
    *before, last = cells[0].measuring
    rows: list[SweepRow] = []
    shared: dict[tuple[str, ...], SweepRow] = {}
    for label, by_seed in runs.items():
        for step in before:
            distinct: dict[str, tuple[int, Found]] = {}
            for seed, steps in by_seed.items():
                distinct.setdefault(steps[step].artefact.folder.name, (seed, steps[step]))
            row = _row(label, choices[label], dict(distinct.values()), whole)
            row.histories = []  # of another training, with other steps
            known = shared.setdefault((step, *row.artefacts), row)
            if known is row:
                rows.append(row)
            known.choices = dict(item for item in known.choices.items() if item in row.choices.items())
            known.label = ", ".join([*known.choices.values(), "before fine-tuning"])
        rows.append(_row(label, choices[label], {seed: steps[last] for seed, steps in by_seed.items()}, whole))
        if whole and by_seed:
            control = _control(choices, label)
            pairs = [(by_seed[seed][last], other[last]) for seed, other in runs[control].items() if seed in by_seed]
            rows[-1].difference = _difference(control, pairs) if control != label and pairs else None
    return [row for row in rows if row.seeds]


def main_metric(found: Found) -> str:
    """The figure that configurations are compared by."""
    return next((name for name in _MAIN if name in found.metrics), next(iter(found.metrics), "accuracy"))


def published(report: ReportSettings) -> list[dict[str, Any]]:
    """The published figures of a recipe, as a table has them."""
    return [
        {"name": row.name, "metric": row.figure[0], "value": row.figure[1], "source": row.source}
        for row in report.published
    ]


def plane(cells: Sequence[Cell], found: Mapping[int, Mapping[str, Found]], recipe: str) -> bytes | None:
    """The features in the plane of the first run of each configuration, side by side, as a PNG; None without any."""
    from safetensors.numpy import load_file

    from sfplus.reports.feature_plot import feature_plot

    measured = {
        cells[index].label(recipe): steps[cells[index].measuring[-1]].artefact
        for index, steps in sorted(found.items(), reverse=True)  # the first seed is written last
    }
    folders = {name: made.folder for name, made in measured.items() if made.manifest["stage"] == "classify"}
    runs = {label: load_file(folder / FEATURES) for label, folder in folders.items() if (folder / FEATURES).is_file()}
    if not runs or any(
        len(run["classifiers"]) != len(next(iter(runs.values()))["classifiers"]) for run in runs.values()
    ):
        return None
    order = [label for label in dict.fromkeys(cell.label(recipe) for cell in cells) if label in runs]
    classes = json.loads((folders[order[0]] / CONFIG).read_text("utf-8"))["classes"]
    return feature_plot({label: runs[label] for label in order}, classes)


def publish_figures(
    step: str, artefact: Artefact, folder: Path, name: str, report: ReportSettings, recipe: str, command: str
) -> Path:
    """Write what a classifier or generator came to, beside what is published, and print it.

    Args:
        step: that was run last.
        artefact: of it.
        folder: for result.md and copies of the artefact's own result and pictures.
        name: of the recipe.
        report: its key.
        recipe: its text.
        command: what makes it again.

    Returns:
        The file result.md.
    """
    found, about = measure(step, {step: artefact}), artefact.manifest
    row = SweepRow(name, {}, [about["settings"]["seed"]], {key: [value] for key, value in found.metrics.items()})
    where = {"versions": about["versions"], "device": about["device"], "recipe": recipe, "command": command}
    table = SweepTable(report.title, main_metric(found), [row], 1, published=published(report), **where)
    folder.mkdir(parents=True, exist_ok=True)
    for shown in ("result.json", "curves.png", "plane.png", "samples.png"):
        file = artefact.folder / shown
        write_or_remove(folder / shown, file.read_bytes() if file.is_file() else None)
    write_atomically(folder / "result.md", to_markdown(table))
    print(f"{step}: " + ", ".join(format_metric(key, found.metrics[key]) for key in table.metrics))
    return folder / "result.md"


def _row(label: str, choices: Mapping[str, str], runs: Mapping[int, Found], whole: bool) -> SweepRow:
    found = list(runs.values())
    names = dict.fromkeys(name for run in found for name in run.metrics)
    values = {name: [run.metrics.get(name, math.nan) for run in found] for name in names}
    artefacts, histories = [run.artefact.folder.name for run in found], [run.history for run in found]
    interval = None
    if whole and found and found[0].result and found[0].pairs:
        with contextlib.suppress(PairsError):  # too few people
            if len(found) == 1:
                interval = accuracy_interval(found[0].result, found[0].pairs)
            else:
                interval = _interval(np.mean([_right(run) for run in found], axis=0), found[0].pairs)
    return SweepRow(label, choices, list(runs), values, artefacts, histories, interval)


def _control(choices: Mapping[str, Mapping[str, str]], label: str) -> str:
    """The first configuration; where there are variants, the first of those that differ in nothing else."""
    own = {axis: choice for axis, choice in choices[label].items() if axis != VARIANT}
    alike = own if VARIANT in choices[label] else {}
    return next(name for name, chosen in choices.items() if alike.items() <= chosen.items())


def _difference(control: str, pairs: Sequence[tuple[Found, Found]]) -> ControlDifference:
    """Of runs of one seed each: the configuration's and the control's."""
    metric = main_metric(pairs[0][0])
    values = [own.metrics[metric] - other.metrics.get(metric, math.nan) for own, other in pairs]
    own, other = pairs[0]
    if not (own.result and other.result and own.pairs and other.pairs and _same_pairs(own.pairs, other.pairs)):
        return ControlDifference(control, values)
    p = [mcnemar(_right(theirs) > 0, _right(ours) > 0)[2] for ours, theirs in pairs]
    change = np.mean([_right(ours) - _right(theirs) for ours, theirs in pairs], axis=0)
    interval = None
    with contextlib.suppress(PairsError):
        interval = _interval(change, own.pairs)
    return ControlDifference(control, values, interval, p)


def _right(found: Found) -> NDArray[np.float64]:
    """(P,) 1 for each pair that is decided rightly."""
    assert found.result is not None
    return found.result.correct.astype(np.float64)


def _interval(values: NDArray[np.float64], pairs: Pairs) -> Interval:
    (interval,) = people_intervals(stratified_mean(values, pairs.same), pairs, level=LEVEL)
    return interval


def _same_pairs(one: Pairs, other: Pairs) -> bool:
    return one.left == other.left and one.right == other.right


def _figures(artefact: Artefact) -> dict[str, float]:
    """The numbers that a stage counted, without amounts."""
    return {
        name: float(value)
        for name, value in sorted(artefact.manifest["counts"].items())
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _AMOUNTS
    }


def _classifier(folder: Path) -> dict[str, float]:
    """How the classifier of a face network is spread; nothing where it has none."""
    from sfplus.hypersphere import measure_uniformity
    from sfplus.weights.model_folder import load_tensors

    weight = load_tensors(folder / HEAD).get("weight") if (folder / HEAD).is_file() else None
    if weight is None or len(weight) < 2:
        return {}
    found = measure_uniformity(weight[:_CLASSES].float())
    return {"class_energy": found.energy, "min_angle": math.degrees(found.min_angle)}


def _history(artefact: Artefact) -> list[dict[str, Any]]:
    file = artefact.folder / HISTORY
    return read_json_lines(file) if file.is_file() else []
