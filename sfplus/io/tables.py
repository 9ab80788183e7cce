"""The small files inside artefacts: Parquet tables and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfplus.errors import ArtefactError
from sfplus.io.files import write_atomically

FAILURES = "failures.jsonl"
NO_FACE = "no face found"  # the reason that is no fault of a file


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as Parquet; the bytes depend on the values alone."""
    pq.write_table(pa.table(dict(columns)), path, compression="zstd")


def read_table(path: Path) -> dict[str, list[Any]]:
    """The columns of a Parquet table as lists.

    Raises:
        ArtefactError: the file is missing or damaged.
    """
    try:
        return pq.read_table(path).to_pydict()  # type: ignore[no-any-return]
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtefactError(
            "is missing or damaged", where=path, remedy=f"delete {path.parent} and run again"
        ) from error


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines in one step."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line that a kill cut short is left out."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def read_failures(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The photos of an artefact that were not used: those without a face, and those that failed."""
    missed: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for row in read_lines(folder / FAILURES):
        (missed if row["reason"] == NO_FACE else failed).append(row)
    return missed, failed
