"""The work of `sfplus verify --features`: verification of features computed elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sfplus.artifacts.context import RunContext
from sfplus.artifacts.pair_inputs import pairs_content
from sfplus.cli.json_results import RunResult, VerifiedModel, print_result
from sfplus.cli.report_folder import check_report_folder, read_report, run_name_of
from sfplus.cli.run import lines_of
from sfplus.datasets.pairs import Pairs, match_photos, read_pairs
from sfplus.datasets.pairs.dataset_name import dataset_name
from sfplus.errors import PairsError, UsageError
from sfplus.io.console import quantity
from sfplus.io.files import check_folder, check_input, file_digest
from sfplus.reports.html import HTML, Report, Undetected, render, worst_crops
from sfplus.verification.features import Features, check_features, read_features, unusable_features
from sfplus.verification.protocols import PROTOCOLS, protocol_summaries


def verify_features(
    features: Path,
    pairs: Path | None,
    against: str,
    protocol: str,
    mirrored: bool,
    undetected: str,
    folds: int | None,
    out: Path | None,
    title: str,
    workspace: Path,
    command: str,
    as_json: bool = False,
) -> None:
    """Verify a file of features, or two on the same pairs; print the results and write the report.

    Args:
        features: a file of features (see `read_features`).
        pairs: the list of pairs (see `read_pairs`).
        against: a second file of features, or empty.
        protocol: a name in PROTOCOLS.
        mirrored: whether each feature holds the features of photo and mirror image side by side, as `sfplus embed`
            writes them.
        undetected: `skip` leaves out pairs with a photo that has no features, or features without a direction;
            otherwise such pairs are an error.
        folds: the number of folds to split the pairs into; None for those of the list.
        out: the folder for the report; None for the folder in `runs/` of the data set.
        title: the heading of the report; empty for the data set.
        workspace: the folder of runs.
        command: the command that reproduces the report.
        as_json: whether to print the result as JSON.

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
    check_input(pairs, "file")
    listed = read_pairs(pairs, folds or 0)
    listed.check_kinds(pairs)
    out = out or workspace / "runs" / run_name_of(workspace, pairs)
    check_report_folder(out, pairs)
    dataset = dataset_name(pairs)
    files = _names([Path(against), features] if against else [features])
    tables = {name: _read(file, listed, pairs, undetected == "skip") for name, file in files.items()}
    missing = {photo for photo in listed.photos if not all(photo in row_of for row_of, _ in tables.values())}
    kept = _without(listed, missing, pairs)
    sides = {
        name: (values[[row_of[photo] for photo in kept.left]], values[[row_of[photo] for photo in kept.right]])
        for name, (row_of, values) in tables.items()
    }
    verify = PROTOCOLS[protocol]
    results = {name: verify(*side, kept.same, kept.fold, mirrored=mirrored) for name, side in sides.items()}
    tested, last = kept.tested, list(files)[-1]
    one, several = (
        f"{words} a photo without usable features" for words in ("pair that contains", "pairs that contain")
    )
    left_out = f"{quantity(len(listed) - len(kept), one, several)} left out."
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
    models = [
        VerifiedModel(name, float(result.mean), float(result.standard_error), protocol, len(tested))
        for name, result in results.items()
    ]
    run = RunResult(models, list(read_report(out).verdicts), report=out / HTML)
    print_result(run, lines_of(run), as_json)


def _names(files: list[Path]) -> dict[str, Path]:
    """Return the files by their names without suffix where these differ, by their paths otherwise."""
    stems = {file.stem: file for file in files}
    return stems if len(stems) == len(files) else {str(file): file for file in files}


def _read(file: Path, listed: Pairs, pairs: Path, may_miss: bool) -> tuple[dict[str, int], Features]:
    """Return the row of each photo of the pairs that has features with a direction, and the features."""
    check_input(file, "file")
    names, features = read_features(file)
    match = match_photos(listed.photos, names)
    match.check(names, pairs, file, may_miss=may_miss)
    row_of = {name: row for row, name in enumerate(names)}
    rows = {photo: row_of[name] for photo, name in match.photo.items()}
    used = list(rows.values())
    if not may_miss:
        remedy = "compute them again, or leave their pairs out with --undetected skip"
        check_features([names[row] for row in used], features[used], file, remedy)
    bad = unusable_features(features)
    return {photo: row for photo, row in rows.items() if not bad[row]}, features


def _without(pairs: Pairs, missing: set[str], path: Path) -> Pairs:
    kept = np.array([not missing & {*pair} for pair in zip(pairs.left, pairs.right, strict=True)])
    if not kept.any():
        raise PairsError("none of its pairs has usable features", where=path, remedy="check the features and names")
    return pairs[kept]
