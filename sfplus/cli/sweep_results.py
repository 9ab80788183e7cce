"""The results of a sweep: the rows of the table, the differences from the control."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from typing_extensions import TypedDict

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import CURVES, FEATURE_PLOT, FEATURES, RESULT, SAMPLES
from sfplus.cli.step_results import StepResult, main_metric, measure
from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.io.files import write_atomically, write_or_remove
from sfplus.io.json_files import read_json
from sfplus.recipes.settings.report import ReportSettings
from sfplus.recipes.steps import Step
from sfplus.recipes.sweep_grid import VARIANT, Configuration
from sfplus.reports.feature_plot import feature_plot
from sfplus.reports.sweep_table import LEVEL, ControlDifference, SweepRow, SweepTable, format_metric, to_markdown
from sfplus.verification.bootstrap import Interval, people_intervals, stratified_mean
from sfplus.verification.curves import accuracy_interval
from sfplus.verification.significance import mcnemar
from sfplus.weights import CONFIG


class _Classes(TypedDict):
    classes: list[str]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a configuration with one seed.

    Attributes:
        configuration: The configuration.
        seed: The number that is added to the seeds of the recipe.
        steps: Its steps; those of the last stage measure.
    """

    configuration: Configuration
    seed: int
    steps: list[Step]

    @property
    def measuring(self) -> list[str]:
        """The names of the steps of the last stage."""
        return [step.name for step in self.steps if step.stage is self.steps[-1].stage]

    def label(self, recipe: str) -> str:
        """Return the label of the configuration, without the seed."""
        return ", ".join(self.configuration.choices.values()) or recipe


def table_rows(
    cells: Sequence[Cell], results: Mapping[int, Mapping[str, StepResult]], recipe: str, final: bool = True
) -> list[SweepRow]:
    """Return the rows of the table: each configuration with its seeds, preceded by the model it was fine-tuned from.

    Args:
        cells: The runs of the sweep.
        results: The results by the index of the run and the name of the step.
        recipe: The name of the recipe, which labels a sweep of one configuration.
        final: Whether to add intervals and differences from the control, which take a while.
    """
    runs: dict[str, dict[int, Mapping[str, StepResult]]] = {cell.label(recipe): {} for cell in cells}
    choices = {cell.label(recipe): cell.configuration.choices for cell in cells}
    for index, steps in sorted(results.items()):
        runs[cells[index].label(recipe)][cells[index].seed] = steps
    *before, last = cells[0].measuring
    rows: list[SweepRow] = []
    shared: dict[tuple[str, ...], SweepRow] = {}
    for label, by_seed in runs.items():
        for step in before:
            distinct: dict[str, tuple[int, StepResult]] = {}
            for seed, steps in by_seed.items():
                distinct.setdefault(steps[step].artefact.folder.name, (seed, steps[step]))
            row = _row(label, choices[label], dict(distinct.values()), final)
            row.histories = []  # it was trained with other steps
            first = shared.setdefault((step, *row.artefacts), row)
            if first is row:
                rows.append(row)
            first.choices = dict(item for item in first.choices.items() if item in row.choices.items())
            first.label = ", ".join([*first.choices.values(), "before fine-tuning"])
        rows.append(_row(label, choices[label], {seed: steps[last] for seed, steps in by_seed.items()}, final))
        if final and by_seed:
            control = _control(choices, label)
            pairs = [(by_seed[seed][last], steps[last]) for seed, steps in runs[control].items() if seed in by_seed]
            rows[-1].difference = difference_from(control, pairs) if control != label and pairs else None
    return [row for row in rows if row.seeds]


def published_rows(report: ReportSettings) -> list[dict[str, Any]]:
    """Return the published figures of a recipe as rows of the table."""
    return [
        {"name": row.name, "metric": row.figure[0], "value": row.figure[1], "source": row.source}
        for row in report.published
    ]


def feature_plots(cells: Sequence[Cell], results: Mapping[int, Mapping[str, StepResult]], recipe: str) -> bytes | None:
    """Plot the 2-D features of the first run of each configuration side by side as PNG; None if there are none."""
    artefacts = {
        cells[index].label(recipe): steps[cells[index].measuring[-1]].artefact
        for index, steps in sorted(results.items(), reverse=True)  # the first seed overwrites the others
    }
    folders = {
        label: artefact.folder for label, artefact in artefacts.items() if artefact.manifest["stage"] == "classify"
    }
    runs = {label: load_file(folder / FEATURES) for label, folder in folders.items() if (folder / FEATURES).is_file()}
    if not runs or any(
        len(run["classifiers"]) != len(next(iter(runs.values()))["classifiers"]) for run in runs.values()
    ):
        return None
    order = [label for label in dict.fromkeys(cell.label(recipe) for cell in cells) if label in runs]
    classes = read_json(folders[order[0]] / CONFIG, _Classes, remedy="delete its folder and run again")["classes"]
    return feature_plot({label: runs[label] for label in order}, classes)


def publish_figures(
    step: str, artefact: Artefact, folder: Path, name: str, report: ReportSettings, recipe: str, command: str
) -> tuple[Path, dict[str, float], str]:
    """Write the metrics of a classifier or generator with the published figures.

    Args:
        step: The last step.
        artefact: Its artefact.
        folder: The folder for result.md and for copies of the artefact's result and plots.
        name: The name of the recipe.
        report: The key `report` of the recipe.
        recipe: The YAML of the recipe.
        command: The command that runs it.

    Returns:
        The file result.md, the metrics, and the same in one line.
    """
    result, about = measure(step, {step: artefact}), artefact.manifest
    row = SweepRow(name, {}, [about["settings"]["seed"]], {key: [value] for key, value in result.metrics.items()})
    provenance = {"versions": about["versions"], "device": about["device"], "recipe": recipe, "command": command}
    title, published = report.title or name, published_rows(report)
    table = SweepTable(title, main_metric(result), [row], 1, published=published, **provenance)
    folder.mkdir(parents=True, exist_ok=True)
    for file_name in (RESULT, CURVES, FEATURE_PLOT, SAMPLES):
        file = artefact.folder / file_name
        write_or_remove(folder / file_name, file.read_bytes() if file.is_file() else None)
    write_atomically(folder / "result.md", to_markdown(table))
    line = f"{step}: " + ", ".join(format_metric(key, result.metrics[key]) for key in table.metrics)
    return folder / "result.md", result.metrics, line


def _row(label: str, choices: Mapping[str, str], runs: Mapping[int, StepResult], final: bool) -> SweepRow:
    results = list(runs.values())
    names = dict.fromkeys(name for run in results for name in run.metrics)
    values = {name: [run.metrics.get(name, math.nan) for run in results] for name in names}
    artefacts, histories = [run.artefact.folder.name for run in results], [run.history for run in results]
    interval = None
    if final and results and results[0].result and results[0].pairs:
        with contextlib.suppress(PairsError):  # too few people
            if len(results) == 1:
                interval = accuracy_interval(results[0].result, results[0].pairs)
            else:
                interval = _interval(np.mean([_correct(run) for run in results], axis=0), results[0].pairs)
    model = results[0].model if results else ""
    energies = {name: [run.energies.get(name, math.nan) for run in results] for name in _names(results)}
    devices = list(dict.fromkeys(run.artefact.manifest["device"] for run in results))
    return SweepRow(
        label, choices, list(runs), values, artefacts, histories, interval,
        model=model, energies=energies, devices=devices, seconds=[run.seconds for run in results],
        models=[run.trained or run.artefact.folder.name for run in results],
    )  # fmt: skip


def _names(results: Sequence[StepResult]) -> list[str]:
    """Return the layers whose energies were computed in any of these runs."""
    return list(dict.fromkeys(name for run in results for name in run.energies))


def _control(choices: Mapping[str, Mapping[str, str]], label: str) -> str:
    """Return the first configuration; with variants, the first one that differs in nothing but the variant."""
    settings = {axis: choice for axis, choice in choices[label].items() if axis != VARIANT}
    common = settings if VARIANT in choices[label] else {}
    return next(name for name, chosen in choices.items() if common.items() <= chosen.items())


def difference_from(control: str, runs: Sequence[tuple[StepResult, StepResult]]) -> ControlDifference:
    """Return the difference of a configuration from its control: configuration minus control, for each seed.

    Args:
        control: The label of the control.
        runs: The run of the configuration and that of the control, for each seed.
    """
    metric = main_metric(runs[0][0])
    values = [run.metrics[metric] - baseline.metrics.get(metric, math.nan) for run, baseline in runs]
    run, baseline = runs[0]
    if not (run.pairs and baseline.pairs and _same_pairs(run.pairs, baseline.pairs)):
        return ControlDifference(control, values)
    p = [mcnemar(_correct(baseline) > 0, _correct(run) > 0)[2] for run, baseline in runs]
    change = np.mean([_correct(run) - _correct(baseline) for run, baseline in runs], axis=0)
    interval = None
    with contextlib.suppress(PairsError):
        interval = _interval(change, run.pairs)
    return ControlDifference(control, values, interval, p)


def _correct(run: StepResult) -> NDArray[np.float64]:
    """Return 1 for each pair that is decided correctly, else 0: (P,)."""
    assert run.result is not None
    return run.result.correct.astype(np.float64)


def _interval(values: NDArray[np.float64], pairs: Pairs) -> Interval:
    (interval,) = people_intervals(stratified_mean(values, pairs.same), pairs, level=LEVEL)
    return interval


def _same_pairs(first: Pairs, second: Pairs) -> bool:
    return first.left == second.left and first.right == second.right
