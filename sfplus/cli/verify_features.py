"""The work of `sfplus verify --features`: verification of features computed elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sfplus.artifacts.context import RunContext
from sfplus.cli.report_folder import check_report_folder, pairs_content, run_name_of
from sfplus.cli.run import print_verdicts
from sfplus.datasets.pairs import Pairs, read_pairs, without_suffix
from sfplus.datasets.pairs.dataset_name import dataset_name
from sfplus.errors import PairsError, UsageError
from sfplus.io.files import check_folder, file_digest
from sfplus.reports.html import HTML, Report, Undetected, render, worst_crops
from sfplus.verification.features import read_features, rows_of
from sfplus.verification.protocols import PROTOCOLS, protocol_summaries


def verify_features(
    features: Path,
    pairs: Path | None,
    against: str,
    protocol: str,
    mirrored: bool,
    undetected: str,
    out: Path | None,
    title: str,
    workspace: Path,
    command: str,
) -> None:
    """Verify a file of features, or two on the same pairs; print the results and write the report.

    Args:
        features: `.npz`, `.safetensors` or `.parquet` (see `read_features`).
        pairs: the list of pairs (see `read_pairs`).
        against: a second file of features, or empty.
        protocol: a name in PROTOCOLS.
        mirrored: whether each feature holds the features of photo and mirror image side by side, as `sfplus embed`
            writes them.
        undetected: `skip` leaves out pairs with a photo that has no features; otherwise such pairs are an error.
        out: the folder for the report; None for the folder in `runs/` of the data set.
        title: the heading of the report; empty for the data set.
        workspace: the folder of runs.
        command: the command that reproduces the report.

    Raises:
        UsageError: If an argument is missing or wrong.
        PairsError: If photos of the pairs have no features, or the list is malformed.
        DatasetError: If a file of features cannot be used.
    """
    if pairs is None:
        raise UsageError("needs --pairs", where="--features", remedy="see: sfplus verify --help")
    if protocol not in PROTOCOLS:
        remedy = f"use {', '.join(PROTOCOLS)}"
        raise UsageError(f"no protocol is called '{protocol}'", where="--protocol", remedy=remedy)
    if against and not Path(against).is_file():
        remedy = "compute features of the photos first: sfplus embed"
        raise UsageError("is not a file of features", where=f"--against {against}", remedy=remedy)
    if against and Path(against).resolve() == features.resolve():
        raise UsageError("is the same file as --features", where=f"--against {against}", remedy="name another one")
    if out:
        check_folder(out)
    listed = read_pairs(pairs)
    out = out or workspace / "runs" / run_name_of(workspace, pairs)
    check_report_folder(out, pairs)
    dataset = dataset_name(pairs)
    files = _names([Path(against), features] if against else [features])
    tables = {name: read_features(file) for name, file in files.items()}
    missing = {photo for names, _ in tables.values() for photo in _missing(listed, names)}
    if missing and undetected != "skip":
        reason = f"{len(missing)} of its photos have no features, the first is {min(missing)}"
        raise PairsError(reason, where=pairs, remedy="add them, or leave their pairs out with --undetected skip")
    kept = _without(listed, missing, pairs)
    sides = {
        name: (values[rows_of(names, kept.left, files[name])], values[rows_of(names, kept.right, files[name])])
        for name, (names, values) in tables.items()
    }
    verify = PROTOCOLS[protocol]
    results = {name: verify(*side, kept.same, kept.fold, mirrored=mirrored) for name, side in sides.items()}
    tested, last = kept.tested, list(files)[-1]
    left_out = f"{len(listed) - len(kept)} pairs that contain a photo without features are left out."
    report = Report(
        title=title or f"Verification on {dataset}",
        dataset=dataset,
        results=results,
        pairs=dict.fromkeys(results, tested),
        protocols={
            name: protocol_summaries(*side, kept.same, kept.fold, mirrored=mirrored) for name, side in sides.items()
        },
        worst=worst_crops(results[last], tested.left, tested.right),
        undetected=Undetected(left_out, sorted(missing), len(listed.photos)) if missing else None,
        hashes={f"pairs: {pairs.name}": pairs_content(pairs)}
        | {f"features: {name}": file_digest(file) for name, file in files.items()},
        versions=RunContext.versions(),
        command=command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, out)
    for name, result in results.items():
        figure = f"{100 * result.mean:.2f} % +- {100 * result.standard_error:.2f}"
        print(f"{name}: {figure} ({protocol} protocol, {len(tested)} pairs)")
    print_verdicts(out)
    print(f"report: {out / HTML}")


def _names(files: list[Path]) -> dict[str, Path]:
    """Return the files by their names without suffix where these differ, by their paths otherwise."""
    stems = {file.stem: file for file in files}
    return stems if len(stems) == len(files) else {str(file): file for file in files}


def _missing(pairs: Pairs, names: list[str]) -> set[str]:
    available = set(names)
    return {photo for photo in pairs.photos if without_suffix(photo) not in available}


def _without(pairs: Pairs, missing: set[str], path: Path) -> Pairs:
    kept = np.array([not missing & {*pair} for pair in zip(pairs.left, pairs.right, strict=True)])
    if not kept.any():
        raise PairsError("none of its pairs has features", where=path, remedy="check the names of the photos")
    return pairs[kept]
