"""Small files of artefacts: Parquet tables and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import PlainValidator
from typing_extensions import TypedDict

from sfplus.errors import ArtefactError, explain_damage
from sfplus.io.disk import explain_write
from sfplus.io.files import file_size, write_atomically
from sfplus.io.json_files import parse_json
from sfplus.io.limits import check_limit

FAILURES = "failures.jsonl"
NO_FACE = "no face found"  # the only reason in FAILURES that is not an error
_BATCH = 256  # rows that are read at a time
Row = TypeVar("Row")


def _check_text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("is not text")
    return value


# pydantic refuses the half characters that Python makes of a file name that is not UTF-8.
AnyText = Annotated[str, PlainValidator(_check_text)]


class Failure(TypedDict):
    """A row of FAILURES: a photo that could not be used."""

    photo: AnyText
    stage: str
    reason: AnyText
    remedy: AnyText


@dataclass(frozen=True)
class Column:
    """The type of the values in a column of a table.

    Attributes:
        kind: `str`, `int`, `float` or `bool`; floats are finite.
        length: The number of values in a cell that is a list; 0 for a cell that is one value.
        optional: Whether a cell may be empty.
    """

    kind: type
    length: int = 0
    optional: bool = False


_IS_KIND = {
    str: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    int: pa.types.is_integer,
    float: pa.types.is_floating,
    bool: pa.types.is_boolean,
}


def write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as Parquet; equal values give equal bytes.

    Raises:
        SfplusError: If the file cannot be written.
    """
    with explain_write(path):
        pq.write_table(pa.table(dict(columns)), path, compression="zstd")


def read_parquet(path: Path, columns: Mapping[str, Column], *, remedy: str = "") -> dict[str, list[Any]]:
    """Read columns of a Parquet file, which anybody may have changed, as lists.

    Args:
        path: The file.
        columns: What the columns contain, by name; other columns are ignored.
        remedy: What to do about a damaged file.

    Raises:
        ArtefactError: If the file is missing, damaged or too large, or a column is missing or contains anything else.
    """
    remedy = remedy or f"delete {path.parent} and run again"
    with explain_damage(path, remedy=remedy, error=ArtefactError):
        file_size(path)  # a pipe is refused
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if missing := [name for name in columns if name not in names]:
                raise ArtefactError(f"is damaged (it has no column '{missing[0]}')", where=path, remedy=remedy)
            table = _read_bounded(file, list(columns), path)
    for name, column in columns.items():
        if not _fits(table[name], column):
            kind = f"{column.length} {column.kind.__name__} each" if column.length else column.kind.__name__
            raise ArtefactError(f"is damaged (column '{name}' is not {kind})", where=path, remedy=remedy)
    return {name: table[name].to_pylist() for name in columns}


def _read_bounded(file: pq.ParquetFile, names: list[str], path: Path) -> pa.Table:
    """Read columns batch by batch: a small file may contain one long text a million times."""
    batches, size = [], 0
    for batch in file.iter_batches(_BATCH, columns=names):
        batches.append(batch)
        size += batch.nbytes
        check_limit("table_bytes", size, path, error=ArtefactError)
    return pa.Table.from_batches(batches, file.schema_arrow.empty_table().select(names).schema)


def _fits(values: pa.ChunkedArray, column: Column) -> bool:
    kind = values.type
    if pa.types.is_null(kind):  # of a column without values
        return column.optional or not len(values)
    if values.null_count and not column.optional:
        return False
    if column.length:
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return False
        lengths = pc.list_value_length(values).drop_null()
        if not pc.all(pc.equal(lengths, column.length), min_count=0).as_py():
            return False
        values, kind = pc.list_flatten(values), kind.value_type
        if values.null_count:
            return False
    if not (_IS_KIND[column.kind](kind) or (column.length and not len(values))):
        return False
    return column.kind is not float or bool(pc.all(pc.is_finite(values.drop_null()), min_count=0).as_py())


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_json_lines(path: Path, kind: type[Row], *, remedy: str = "") -> list[Row]:
    """Read a file of JSON lines, which anybody may have changed, as values of a type.

    Args:
        path: The file; a missing file has no rows, and an incomplete last line, which a kill may leave, is ignored.
        kind: The type of a row (see `io.json_files`).
        remedy: What to do about a damaged file.

    Raises:
        ArtefactError: If the file cannot be read or is too large, or a line is not JSON of this type; the first is
            named.
    """
    remedy = remedy or f"delete {path.parent} and run again"
    try:
        check_limit("json_bytes", file_size(path), path, error=ArtefactError)
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtefactError(f"cannot be read: {error.strerror}", where=path, remedy=remedy) from error
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [
        parse_json(line, kind, where=f"{path}:{number}", remedy=remedy) for number, line in enumerate(lines, start=1)
    ]


def read_failures(folder: Path) -> tuple[list[Failure], list[Failure]]:
    """Return the photos that an artefact could not use.

    Args:
        folder: of the artefact.

    Returns:
        The rows of photos without a face, and the rows of photos that failed.

    Raises:
        ArtefactError: If the list is damaged.
    """
    undetected: list[Failure] = []
    failed: list[Failure] = []
    for row in read_json_lines(folder / FAILURES, Failure):
        (undetected if row["reason"] == NO_FACE else failed).append(row)
    return undetected, failed
