"""The small files inside artefacts: Parquet tables, JSON lines, journals that survive a kill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfplus.errors import ArtefactError
from sfplus.images import write_atomically

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


class Journal:
    """A file of JSON lines that grows batch by batch, so that a killed stage goes on after its last whole batch.

    Each line holds the rows of one batch.

    Args:
        path: the file; what it holds already is read first, a line that was cut short is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.batches: list[list[dict[str, Any]]] = [line["rows"] for line in read_lines(path)]
        write_lines(path, [{"rows": rows} for rows in self.batches])
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append one batch in one write."""
        self.batches.append([dict(row) for row in rows])
        self._file.write(json.dumps({"rows": rows}) + "\n")
        self._file.flush()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows."""
        return [row for batch in self.batches for row in batch]

    def remove(self) -> None:
        """Close and delete the file, once its rows are safe elsewhere."""
        self._file.close()
        self._path.unlink()
