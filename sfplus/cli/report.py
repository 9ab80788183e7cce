"""Compare the results of several runs in one page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sfplus.artifacts.context import RunContext
from sfplus.cli.options import DATA, Workspace
from sfplus.cli.run import this_command
from sfplus.datasets.pairs import Pairs
from sfplus.errors import ArtefactError, SfplusError, UsageError
from sfplus.reports.html import HTML, JSON, Report, render, worst_crops
from sfplus.verification.result import Result

app = typer.Typer()

_UNLIKE = (
    "Not all of these models were verified on the same pairs. Only those that were are compared; figures of different "
    "pairs say nothing about each other."
)


def report_runs(runs: Sequence[str], out: Path, title: str, workspace: Path, command: str) -> None:
    """Write one report of several runs, which compares the models that were verified on the same pairs.

    Args:
        runs: names of folders in `workspace/runs`, folders, or report.json files; the last one is the headline.
        out: the folder for report.html, report.json and report.md.
        title: heading of the page.
        workspace: where runs are looked up by name.
        command: what makes this report again.

    Raises:
        UsageError: a run is not there, or is given twice.
        ArtefactError: a file is no report.
    """
    files = [_find(run, workspace) for run in runs]
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError("a run is named twice", where="RUN", remedy="name each run once")
    if out.resolve() in {file.parent.resolve() for file in files}:
        raise UsageError("holds the report of one of the runs", where=out, remedy="choose another --out")
    told = {file: _read(file) for file in files}
    labels = _labels(told)
    found = {label: _result(told[file]["results"][name], file) for (file, name), label in labels.items()}
    results = {label: result for label, (result, _) in found.items()}
    pairs = {label: known for label, (_, known) in found.items() if known}
    last = list(results)[-1]
    report = Report(
        title=title,
        results=results,
        pairs=pairs,
        notice="" if len(pairs) == len(results) and len({(p.left, p.right) for p in pairs.values()}) == 1 else _UNLIKE,
        published=_published(told.values()),
        worst=worst_crops(results[last], pairs[last].left, pairs[last].right) if last in pairs else {},
        protocols=_of_models("protocols", told, labels),
        histories=_of_models("histories", told, labels),
        hashes={
            f"{file.parent.name}, {name}": digest
            for file, data in told.items() for name, digest in data.get("hashes", {}).items()
        },
        versions=RunContext.versions(),
        command=command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    render(report, out)
    print(f"report: {out / HTML}")


def _of_models(key: str, told: dict[Path, dict[str, Any]], labels: dict[tuple[Path, str], str]) -> dict[str, Any]:
    """What the reports say under a key of their models, by label."""
    known = {(file, name): told[file].get(key, {}) for file, name in labels}
    return {label: known[where][where[1]] for where, label in labels.items() if where[1] in known[where]}


def _find(run: str, workspace: Path) -> Path:
    """The report.json of a run."""
    for path in (Path(run), Path(run) / JSON, workspace / "runs" / run / JSON):
        if path.is_file():
            return path
    have = ", ".join(sorted(path.parent.name for path in (workspace / "runs").glob(f"*/{JSON}"))) or "none yet"
    raise UsageError(f"there is no report of '{run}'", where=workspace / "runs", remedy=f"runs: {have}")


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
        kinds = {"results": dict, "histories": dict, "protocols": dict, "hashes": dict, "published": list}
        if not all(isinstance(data.get(key, kind()), kind) for key, kind in kinds.items()):
            reason = "is not a report"
        elif data["results"]:
            return dict(data)
        else:
            reason = "holds no result"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, AttributeError, RecursionError):
        reason = "is not a report"
    raise ArtefactError(reason, where=file, remedy="give the report.json of sfplus verify or sfplus run")


def _result(row: dict[str, Any], file: Path) -> tuple[Result, Pairs | None]:
    """A result and, where the report names them, its pairs."""
    try:
        result = Result.from_dict(row)
        result.scores[result.fold], result.threshold[result.fold]
        if "left" not in row:
            return result, None
        return result, Pairs(tuple(row["left"]), tuple(row["right"]), result.same, result.fold)
    except (KeyError, TypeError, ValueError, IndexError, SfplusError) as error:
        raise ArtefactError(f"holds a damaged result ({error})", where=file, remedy="verify again") from None


def _published(told: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The published figures of all reports, each once."""
    rows = [row for data in told for row in data.get("published", [])]
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def _labels(told: dict[Path, dict[str, Any]]) -> dict[tuple[Path, str], str]:
    """What each model of each run is called: its name where that tells it apart, else with the run's."""
    models = [(file, name) for file, data in told.items() for name in data["results"]]
    shared = Counter(name for _, name in models)
    labels = {(file, name): name if shared[name] == 1 else f"{file.parent.name}: {name}" for file, name in models}
    twice = Counter(labels.values())
    return {key: text if twice[text] == 1 else f"{key[0].parent}: {key[1]}" for key, text in labels.items()}


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names in data/runs, folders or report.json.")],
    out: Annotated[Path, typer.Option("--out", help="The folder for report.html, .json and .md.")] = Path("report"),
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "Several runs, side by side",
    workspace: Workspace = DATA,
) -> None:
    """Compare the results of several runs in one page, and say which differences are not significant.

    Example: sfplus report demo control --out comparison
    """
    report_runs(runs, out, title, workspace, this_command())
