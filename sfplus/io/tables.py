"""Small files of artefacts: Parquet tables and JSON lines."""

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
NO_FACE = "no face found"  # the only reason in FAILURES that is not an error


def write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as Parquet; equal values give equal bytes."""
    pq.write_table(pa.table(dict(columns)), path, compression="zstd")


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file as lists.

    Raises:
        ArtefactError: If the file is missing or damaged.
    """
    try:
        return pq.read_table(path).to_pydict()  # type: ignore[no-any-return]
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ArtefactError(
            "is missing or damaged", where=path, remedy=f"delete {path.parent} and run again"
        ) from error


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; a missing file has none, and an incomplete last line is ignored."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in complete.splitlines()]


def read_failures(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the photos that an artefact could not use.

    Args:
        folder: of the artefact.

    Returns:
        The rows of photos without a face, and the rows of photos that failed.
    """
    undetected: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for row in read_json_lines(folder / FAILURES):
        (undetected if row["reason"] == NO_FACE else failed).append(row)
    return undetected, failed
