"""`sfplus verify --features`: verification of features that were made elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sfplus.artifacts.context import RunContext
from sfplus.datasets.pairs import Pairs, pair_files, read_pairs, without_suffix
from sfplus.errors import PairsError, UsageError
from sfplus.io.files import check_folder, file_digest
from sfplus.reports import metrics as facts
from sfplus.reports.html import HTML, Report, Undetected, render, worst_crops
from sfplus.verification.features import Features, read_features
from sfplus.verification.protocols import PROTOCOLS


def verify_features(
    features: Path,
    pairs: Path | None,
    against: str,
    protocol: str,
    mirrored: bool,
    undetected: str,
    out: Path | None,
    command: str,
) -> None:
    """Verify a file of features, and a second one on the same pairs; print the results and write the report.

    Args:
        features: `.npz`, `.safetensors` or `.parquet` (see `read_features`).
        pairs: the list of pairs (see `read_pairs`).
        against: a second file, or nothing.
        protocol: a name in PROTOCOLS.
        mirrored: whether the features hold those of photo and mirror image side by side, as sfplus embed makes them.
        undetected: `skip` leaves out the pairs with a photo that has no features; else they are an error.
        out: the folder of the report.
        command: what makes the report again.

    Raises:
        UsageError: an argument is missing or wrong.
        PairsError: photos of the pairs have no features, or the list is malformed.
        DatasetError: a file of features cannot be used.
    """
    if pairs is None or out is None:
        raise UsageError("needs --pairs and --out", where="--features", remedy="see: sfplus verify --help")
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise UsageError(f"no protocol is called '{protocol}'", where="--protocol", remedy=f"use {known}")
    if against and not Path(against).is_file():
        remedy = "make features of the photos first: sfplus embed"
        raise UsageError("is no file of features", where=f"--against {against}", remedy=remedy)
    if against and Path(against).resolve() == features.resolve():
        raise UsageError("is the file itself", where=f"--against {against}", remedy="name another one")
    check_folder(out)
    listed = read_pairs(pairs)
    files = _named([Path(against), features] if against else [features])
    tables = {name: _Rows(file) for name, file in files.items()}
    missing = sorted({photo for table in tables.values() for photo in listed.photos if photo not in table})
    if missing and undetected != "skip":
        reason = f"{len(missing)} of its photos have no features, the first is {missing[0]}"
        raise PairsError(reason, where=pairs, remedy="add them, or leave their pairs out with --undetected skip")
    kept = _without(listed, set(missing), pairs)
    sides = {name: (table[kept.left], table[kept.right]) for name, table in tables.items()}
    verify = PROTOCOLS[protocol]
    results = {
        name: verify(left, right, kept.same, kept.fold, mirrored=mirrored) for name, (left, right) in sides.items()
    }
    tested, last = kept.tested, list(files)[-1]
    left_out = f"{len(listed) - len(kept)} pairs with a photo without features are left out."
    report = Report(
        title=f"Verification of {last}",
        results=results,
        pairs=dict.fromkeys(results, tested),
        protocols={name: facts.by_protocol(*side, kept.same, kept.fold, mirrored) for name, side in sides.items()},
        worst=worst_crops(results[last], tested.left, tested.right),
        undetected=Undetected(left_out, missing, len(listed.photos)) if missing else None,
        hashes={f"pairs: {file.name}": file_digest(file) for file in pair_files(pairs)}
        | {f"features: {name}": file_digest(file) for name, file in files.items()},
        versions=RunContext.versions(),
        command=command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, out)
    for name, result in results.items():
        figure = f"{100 * result.mean:.2f} % +- {100 * result.standard_error:.2f}"
        print(f"{name}: {figure} ({protocol} protocol, {len(tested)} pairs)")
    print(f"report: {out / HTML}")


def _named(files: list[Path]) -> dict[str, Path]:
    """Files by their names without suffix, where these tell them apart, else by their paths."""
    stems = {file.stem: file for file in files}
    return stems if len(stems) == len(files) else {str(file): file for file in files}


class _Rows:
    """The features of a file, by the names of photos."""

    def __init__(self, file: Path) -> None:
        names, self._features = read_features(file)
        self._row = {name: row for row, name in enumerate(names)}

    def __contains__(self, photo: str) -> bool:
        return without_suffix(photo) in self._row

    def __getitem__(self, photos: tuple[str, ...]) -> Features:
        return self._features[[self._row[without_suffix(photo)] for photo in photos]]


def _without(pairs: Pairs, missing: set[str], where: Path) -> Pairs:
    there = np.array([not missing & {*pair} for pair in zip(pairs.left, pairs.right, strict=True)])
    if not there.any():
        raise PairsError("none of its pairs has features", where=where, remedy="check the names of the photos")
    return pairs[there]
