"""Parquet: a column of encoded pictures and one of labels, as data sets of Hugging Face have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfplus.datasets.records import LARGEST, Item, files_from, named, numbered
from sfplus.errors import DatasetError, PhotoError

_LABELS = ("label", "identity", "person", "labels", "id", "name", "class", "target")
_ROWS = 16  # read at once, fewer where cells may be large
_DENSEST = 100  # times smaller a column of pictures gets at most; they are compressed already
_WANTED = f"it needs a column of pictures (bytes, or bytes and path) and one of labels, called {' or '.join(_LABELS)}"


class Tables:
    """The pictures of Parquet files, in their order.

    The picture is the first column of bytes, or of `bytes` and `path` as `datasets.Image` stores it; a path without
    bytes is not followed. The person is the label: text as it is, whole numbers in seven digits, or by their names
    where the file's metadata hold the names of a `datasets.ClassLabel`.

    Args:
        root: what the user named.
        tables: the files; all of them have the same columns.

    Raises:
        DatasetError: a file is damaged, lacks such columns, or there is no row in any.
    """

    kind = "Parquet"
    remarks = ()

    def __init__(self, root: Path, tables: Sequence[Path]) -> None:
        self.root, self._tables = root, list(tables)
        self._counts = []
        for table in self._tables:
            with _opened(table) as file:
                _columns(table, file.schema_arrow)
                self._counts.append(file.metadata.num_rows)
        if not sum(self._counts):
            raise DatasetError("holds no row", where=root, remedy=_WANTED)

    @staticmethod
    def fit(table: Path) -> bool:
        """Whether a file has the columns."""
        try:
            with _opened(table) as file:
                return bool(_columns(table, file.schema_arrow))
        except DatasetError:
            return False

    def files(self) -> list[Path]:
        """The Parquet files."""
        return self._tables

    def __len__(self) -> int:
        return sum(self._counts)

    def items(self, start: int = 0) -> Iterator[Item]:
        """The rows from number `start` on."""
        for table, first in files_from(self._tables, self._counts, start):
            yield from _items(table, first)


class _opened:
    """A Parquet file whose faults are one line, also those found while it is read."""

    def __init__(self, table: Path) -> None:
        self._table = table

    def __enter__(self) -> pq.ParquetFile:
        try:
            self._file = pq.ParquetFile(self._table)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, pa.ArrowException | OSError):
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> DatasetError:
        return DatasetError(f"is no readable Parquet file ({error})", where=self._table, remedy="get it again")


def _columns(table: Path, schema: pa.Schema) -> tuple[str, str, list[str]]:
    """The column of pictures, that of labels, and the names that labels stand for."""
    pictures = [field.name for field in schema if _is_bytes(field.type) or _has_bytes(field.type)]
    labels = [name for name in _LABELS if name in schema.names and name not in pictures]
    if not pictures or not labels:
        raise DatasetError(f"has the columns {', '.join(schema.names)}", where=table, remedy=_WANTED)
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[labels[0]].get("names") or []
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        names = []
    return pictures[0], labels[0], [str(name) for name in names]


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _has_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)


def _items(table: Path, start: int) -> Iterator[Item]:
    with _opened(table) as file:
        picture, label, names = _columns(table, file.schema_arrow)
        row = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row + count <= start:
                row += count
                continue
            rows = _rows(table, file.metadata.row_group(group), picture, label)
            for batch in file.iter_batches(rows, row_groups=[group], columns=[picture, label]):
                for number in range(max(row, start), row + len(batch)):
                    cell, person = batch.column(picture)[number - row], batch.column(label)[number - row]
                    yield _item(f"{table.stem}/{number}", cell, person.as_py(), names)
                row += len(batch)


def _rows(table: Path, group: pq.RowGroupMetaData, *names: str) -> int:
    """How many rows of a group to unpack at once: few of a short file can be gigabytes, for its cells may be the same.

    Raises:
        DatasetError: the group unpacks to so much more than it is that it holds no pictures.
    """
    columns = [group.column(i) for i in range(group.num_columns)]
    columns = [
        column for column in columns if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names)
    ]
    packed: int = sum(column.total_compressed_size for column in columns)
    unpacked: int = sum(column.total_uncompressed_size for column in columns)
    if unpacked > max(LARGEST, _DENSEST * packed):
        reason = f"holds no pictures: a row group of {packed:,} bytes unpacks to {unpacked:,}"
        raise DatasetError(reason, where=table, remedy="get it again")
    return min(max(LARGEST // max(unpacked, 1), 1), _ROWS)  # no cell is larger than all different ones together


def _item(name: str, cell: pa.Scalar, label: Any, names: Sequence[str]) -> Item:
    """A row; the bytes are copied only if they are no more than a picture may have."""
    path = None
    if pa.types.is_struct(cell.type):
        path = cell["path"].as_py() if cell.is_valid and cell.type.get_field_index("path") >= 0 else None
        cell = cell["bytes"] if cell.is_valid else pa.NULL
    data = cell.as_buffer() if cell.is_valid else None
    name = f"{name}/{path}" if path else name
    try:
        person = _person(name, label, names)
        if not data:
            raise PhotoError("has no bytes" + (", only a path" if path else ""), where=name)
        if data.size > LARGEST:
            raise PhotoError(f"has {data.size:,} bytes", where=name)
        return Item(name, person, data.to_pybytes())
    except PhotoError as error:
        return Item(name, "", error)


def _person(name: str, label: Any, names: Sequence[str]) -> str:
    if isinstance(label, str):
        return named(label, name)
    if not isinstance(label, int | float):
        raise PhotoError("has no label", where=name)
    number = numbered(label, name)
    if not names:
        return number
    if int(number) >= len(names):
        raise PhotoError(f"its label {int(number)} is beyond the {len(names)} names of the file", where=name)
    return names[int(number)]
