"""`sfplus verify --features`: verification of features that were made elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs import Pairs, read_pairs
from sfplus.errors import PairsError, UsageError
from sfplus.reports import facts
from sfplus.reports.html import HTML, Report, Undetected, render, worst_crops
from sfplus.stages.inputs import file_digest
from sfplus.stages.run import Run
from sfplus.verification.features import read_features
from sfplus.verification.protocols import PROTOCOLS
from sfplus.verification.result import Result


def verify_features(
    features: Path, pairs: Path | None, against: str, protocol: str, undetected: str, out: Path | None, command: str
) -> None:
    """Verify a file of features, and a second one on the same pairs; print the results and write the report.

    Args:
        features: `.npz`, `.safetensors` or `.parquet` (see `read_features`).
        pairs: the list of pairs.
        against: a second file, or nothing.
        protocol: a name in PROTOCOLS.
        undetected: `skip` leaves out the pairs with a photo that has no features; else they are an error.
        out: the folder of the report.
        command: what makes the report again.

    Raises:
        UsageError: an argument is missing or wrong.
        PairsError: photos of the pairs have no features.
    """
    if pairs is None or out is None:
        raise UsageError("needs --pairs and --out", where="--features", remedy="see: sfplus verify --help")
    if protocol not in PROTOCOLS:
        raise UsageError(
            f"no protocol is called '{protocol}'", where="--protocol", remedy=f"use {', '.join(PROTOCOLS)}"
        )
    if against and not Path(against).is_file():
        remedy = "make features of the photos first: sfplus embed"
        raise UsageError("is no file of features", where=f"--against {against}", remedy=remedy)
    files = [Path(against), features] if against else [features]
    listed = read_pairs(pairs)
    tables = [_Rows(file) for file in files]
    there = np.logical_and.reduce([table.has(listed) for table in tables])
    missing = sorted({name for table in tables for name in listed.photos if name not in table.row})
    if missing and undetected != "skip":
        reason = f"{len(missing)} of its photos have no features, the first is {missing[0]}"
        raise PairsError(reason, where=pairs, remedy="add them, or leave their pairs out with --undetected skip")
    kept = _kept(listed, there, pairs)
    labels = [file.stem for file in files] if len({file.stem for file in files}) > 1 else [str(file) for file in files]
    results: dict[str, Result] = {}
    protocols = {}
    for label, table in zip(labels, tables, strict=True):
        left, right = table.of(kept.left), table.of(kept.right)
        results[label] = PROTOCOLS[protocol](left, right, kept.same, kept.fold)
        protocols[label] = facts.by_protocol(left, right, results[label])
    report = Report(
        title=f"Verification of {labels[-1]}",
        results=results,
        pairs=dict.fromkeys(results, kept),
        protocols=protocols,
        worst=worst_crops(results[labels[-1]], kept.left, kept.right),
        undetected=Undetected(f"{len(listed) - len(kept)} pairs with a photo without features are left out.", missing)
        if missing else None,
        hashes={f"pairs: {pairs.name}": file_digest(pairs)}
        | {f"features: {label}": file_digest(file) for label, file in zip(labels, files, strict=True)},
        versions=Run.versions(),
        command=command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    render(report, out)
    for label, result in results.items():
        figure = f"{100 * result.mean:.2f} % +- {100 * result.standard_error:.2f}"
        print(f"{label}: {figure} ({protocol} protocol, {len(kept)} pairs)")
    print(f"report: {out / HTML}")


class _Rows:
    """A file of features, by the names of its photos."""

    def __init__(self, file: Path) -> None:
        names, self._values = read_features(file)
        self.row = {name: row for row, name in enumerate(names)}

    def has(self, pairs: Pairs) -> NDArray[np.bool_]:
        return np.array([a in self.row and b in self.row for a, b in zip(pairs.left, pairs.right, strict=True)])

    def of(self, names: tuple[str, ...]) -> NDArray[Any]:
        return self._values[[self.row[name] for name in names]]


def _kept(pairs: Pairs, there: NDArray[np.bool_], where: Path) -> Pairs:
    if not there.any():
        raise PairsError("none of its pairs has features", where=where, remedy="check the names of the photos")
    left, right = (tuple(np.array(names, object)[there]) for names in (pairs.left, pairs.right))
    return Pairs(left, right, pairs.same[there], pairs.fold[there])
