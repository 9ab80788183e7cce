"""The folder of a report: one for each data set, and a report of other pairs is never overwritten."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from sfplus.artifacts.layout import REPORT_JSON
from sfplus.artifacts.pair_inputs import pairs_content
from sfplus.datasets.pairs.dataset_name import dataset_folder, dataset_name
from sfplus.errors import ArtefactError, UsageError, warn_user
from sfplus.io.files import check_folder
from sfplus.reports.report_data import ReportSummary, read_report_summary


def run_name_of(workspace: Path, pairs: Path, photos: Path | None = None) -> str:
    """Return the folder in `runs/` for a verification: the data set, numbered where it holds a report of other pairs.

    Args:
        workspace: The folder of cache and runs.
        pairs: The pair list.
        photos: The folder of photos, which names the data set where the list does not.
    """
    name = dataset_folder(dataset_name(pairs, photos))
    content = pairs_content(pairs) if pairs.exists() else ""
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(run for run in numbered if _pairs_of_report(workspace / "runs" / run) in ("", content))


def check_report_folder(folder: Path, pairs: Path | None) -> None:
    """Check that a folder can take a report of these pairs.

    Raises:
        UsageError: If it is a file or inside one, or it holds the report of other pairs.
    """
    check_folder(folder)
    if pairs and pairs.exists() and _pairs_of_report(folder) not in ("", pairs_content(pairs)):
        remedy = "choose another --out or --name, or delete that report"
        raise UsageError(f"holds a report of other pairs than {pairs}", where=folder, remedy=remedy)


def read_report(folder: Path) -> ReportSummary:
    """Return what the report in a folder says; nothing if there is none that can be read."""
    try:
        return read_report_summary(folder / REPORT_JSON)
    except ArtefactError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            warn_user(str(error))
        return ReportSummary()


def _pairs_of_report(folder: Path) -> str:
    """Return the digest of the pairs of the report in a folder; empty if there is none, or it compares several."""
    return next((digest for name, digest in read_report(folder).hashes.items() if name.startswith("pairs: ")), "")
