"""Compare the results of several runs in one page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sfplus.artifacts.context import RunContext
from sfplus.artifacts.model_facts import ModelFacts
from sfplus.cli.command import App
from sfplus.cli.json_results import RunResult, VerifiedModel, print_result
from sfplus.cli.options import DATA, AsJson, Title, Workspace
from sfplus.cli.report_folder import read_report
from sfplus.cli.run import this_command
from sfplus.errors import ArtefactError, UsageError, one_line
from sfplus.reports.html import HTML, JSON, Report, render, worst_crops
from sfplus.reports.report_data import PublishedRow, ReportData, read_report_data

app = App()

_DIFFERENT_PAIRS = (
    "Not all of these models were verified on the same pairs. Only models verified on the same pairs are compared; "
    "figures of different pairs cannot be compared."
)


def report_runs(
    runs: Sequence[str], out: Path, title: str, workspace: Path, command: str, as_json: bool = False
) -> None:
    """Write one report of several runs, which compares the models that were verified on the same pairs.

    Args:
        runs: names of folders in `workspace/runs`, folders, or report.json files; the last one is the headline.
        out: the folder for report.html, report.json and report.md.
        title: heading of the page; empty for the data set of the runs.
        workspace: the workspace in which run names are looked up.
        command: the command that reproduces this report.
        as_json: whether to print the result as JSON.

    Raises:
        UsageError: If a run does not exist or is given twice.
        ArtefactError: If a file is not a report.
    """
    files = [_find_report(run, workspace) for run in runs]
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError("a run is given twice", where="RUN", remedy="name each run once")
    if out.resolve() in {file.parent.resolve() for file in files}:
        raise UsageError("holds the report of one of the runs", where=out, remedy="choose another --out")
    reports = {file: _read_report(file) for file in files}
    labels = _labels(reports)
    verified = {
        label: reports[file].results[name] for (file, name), label in labels.items() if name in reports[file].results
    }
    results = {label: data.result for label, data in verified.items()}
    names = {data.dataset for data in reports.values()}
    dataset = names.pop() if len(names) == 1 else ""
    pairs = {label: listed for label, data in verified.items() if (listed := data.pairs)}
    last, kind = (list(results)[-1], "Verification") if results else ("", "Identification")
    comparable = len(pairs) == len(results) and len({(p.left, p.right) for p in pairs.values()}) == 1
    report = Report(
        title=title or (f"{kind} on {dataset}" if dataset else "Several runs, side by side"),
        dataset=dataset,
        models={label: ModelFacts.from_json(facts) for label, facts in _by_label("models", reports, labels).items()},
        results=results,
        pairs=pairs,
        notice="" if comparable or not results else _DIFFERENT_PAIRS,
        published=_published(reports.values()),
        worst=worst_crops(results[last], pairs[last].left, pairs[last].right) if last in pairs else {},
        protocols=_by_label("protocols", reports, labels),
        identification=_by_label("identified", reports, labels),
        histories=_by_label("histories", reports, labels),
        hashes={
            f"{file.parent.name}, {name}": digest
            for file, data in reports.items() for name, digest in data.hashes.items()
        },
        versions=RunContext.versions(),
        command=command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    render(report, out)
    models = [
        VerifiedModel(label, float(result.mean), float(result.standard_error), result.protocol, len(result.scores))
        for label, result in results.items()
    ]
    run = RunResult(models, list(read_report(out).verdicts), report=out / HTML)
    print_result(run, [*map(one_line, run.verdicts), f"report: {run.report}"], as_json)


def _by_label(key: str, reports: Mapping[Path, ReportData], labels: Mapping[tuple[Path, str], str]) -> dict[str, Any]:
    """Return the values that the reports hold for their models under a key, by label."""
    return {
        label: getattr(reports[file], key)[name]
        for (file, name), label in labels.items() if name in getattr(reports[file], key)
    }  # fmt: skip


def _find_report(run: str, workspace: Path) -> Path:
    """Return the path of the report.json of a run."""
    for path in (Path(run), Path(run) / JSON, workspace / "runs" / run / JSON):
        if path.is_file() and path.suffix == ".json":
            return path
    runs = ", ".join(sorted(path.parent.name for path in (workspace / "runs").glob(f"*/{JSON}"))) or "none yet"
    raise UsageError(f"there is no report of '{run}'", where=workspace / "runs", remedy=f"runs: {runs}")


def _read_report(file: Path) -> ReportData:
    data = read_report_data(file)
    if not (data.results or data.identification):
        raise ArtefactError("holds no result", where=file, remedy="verify a model, or identify with it")
    return data


def _published(reports: Iterable[ReportData]) -> list[PublishedRow]:
    """Return the published figures of all reports without duplicates."""
    rows = [row for data in reports for row in data.published]
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def _labels(reports: Mapping[Path, ReportData]) -> dict[tuple[Path, str], str]:
    """Return a unique label for each model of each run: its name, with the run's name or path where models share it.

    A model that several runs verified with the same result, such as the start of two fine-tunings, is listed once.
    """
    runs = [(file, name) for file, data in reports.items() for name in {**data.results, **(data.identification or {})}]
    distinct = {_identity(reports[file], file, name): (file, name) for file, name in runs}
    models = [model for model in runs if model in distinct.values()]
    uses = Counter(name for _, name in models)
    labels = {(file, name): name if uses[name] == 1 else f"{file.parent.name}: {name}" for file, name in models}
    duplicates = Counter(labels.values())
    return {key: text if duplicates[text] == 1 else f"{key[0].parent}: {key[1]}" for key, text in labels.items()}


def _identity(data: ReportData, file: Path, name: str) -> str:
    """Return what two runs have in common if they measured one model on the same photos: its digest and its results."""
    content = ModelFacts.from_json(data.models.get(name)).content
    result, rates = data.results.get(name), data.identified.get(name)
    about = [name, content, result and result.model_dump(), rates and rates.to_json()]
    return json.dumps(about if content else [str(file), name])


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Names in data/runs, folders or report.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for report.html, .json and .md.")] = Path(
        "report"
    ),
    title: Title = "",
    workspace: Workspace = DATA,
    as_json: AsJson = False,
) -> None:
    """Compare the results of several runs in one page, and say which differences are not significant.

    Example: sfplus report demo control --out comparison
    """
    report_runs(runs, out, title, workspace, this_command(), as_json)
