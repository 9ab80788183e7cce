"""Parquet files with a column of encoded images and a column of labels, as in Hugging Face data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfplus.datasets.records import (
    MAX_IMAGE_BYTES,
    PhotoCollection,
    Record,
    person_from_number,
    person_from_text,
    skip_records,
)
from sfplus.datasets.shards import list_shards, select_split
from sfplus.errors import DatasetError, PhotoError
from sfplus.images import list_photos

_LABELS = ("label", "identity", "person", "labels", "id", "name", "class", "target")
_BATCH_ROWS = 16  # rows that are decompressed at once; fewer where cells may be large
_MAX_RATIO = 100  # compression ratio of a column of images: they are compressed already, so the ratio is low
_REQUIRED = f"it needs a column of images (bytes, or bytes and path) and a column of labels: {' or '.join(_LABELS)}"


class ParquetTables(PhotoCollection):
    """The images of Parquet files, in the order of the rows.

    The image is the first column of bytes, or of `bytes` and `path` as `datasets.Image` stores them; a path without
    bytes is not followed. The person is the label: text as it is, integers padded to seven digits, or names where the
    metadata of the file contain the names of a `datasets.ClassLabel`.

    Args:
        root: path that the user gave.
        tables: Parquet files, all with the same columns.

    Raises:
        DatasetError: If a file is damaged or lacks such columns, or no file contains a row.
    """

    kind = "Parquet"
    accepts = ".parquet files"
    priority = 3

    def __init__(self, root: Path, tables: Sequence[Path]) -> None:
        self.root, self._tables = root, list(tables)
        self._counts = []
        for table in self._tables:
            with _open_parquet(table) as file:
                _find_columns(table, file.schema_arrow)
                self._counts.append(file.metadata.num_rows)
        if not sum(self._counts):
            raise DatasetError("contains no row", where=root, remedy=_REQUIRED)

    @classmethod
    def open(cls, path: Path, split: str) -> ParquetTables | None:
        """Open a `.parquet` file, or a folder with `.parquet` files at any depth.

        A folder of photos may contain tables about them, as `sfplus align` writes; it is not a Parquet collection.
        """
        if path.is_file():
            return cls(path, [path]) if path.suffix == ".parquet" else None
        tables = list_shards(path, "**/*.parquet")
        if not tables or (not has_images(tables[0]) and any("/" in name for name in list_photos(path))):
            return None
        return cls(path, select_split(path, tables, split))

    def files(self) -> list[Path]:
        """Return the Parquet files."""
        return self._tables

    def __len__(self) -> int:
        return sum(self._counts)

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the rows from number `start` on."""
        for table, first in skip_records(self._tables, self._counts, start):
            yield from _records(table, first)


def has_images(table: Path) -> bool:
    """Return True if a file is a readable Parquet file with a column of images and a column of labels."""
    try:
        with _open_parquet(table) as file:
            return bool(_find_columns(table, file.schema_arrow))
    except DatasetError:
        return False


@contextmanager
def _open_parquet(table: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; damage that is found later, while rows are read, raises the same error."""
    try:
        with pq.ParquetFile(table) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = f"is not a readable Parquet file ({error})"
        raise DatasetError(reason, where=table, remedy="download it again") from error


def _find_columns(table: Path, schema: pa.Schema) -> tuple[str, str, list[str]]:
    """Return the column of images, the column of labels, and the names of the labels (often none)."""
    images = [column.name for column in schema if _is_binary(column.type) or _has_binary_field(column.type)]
    labels = [name for name in _LABELS if name in schema.names and name not in images]
    if not images or not labels:
        raise DatasetError(f"has the columns {', '.join(schema.names)}", where=table, remedy=_REQUIRED)
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[labels[0]].get("names") or []
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        names = []
    return images[0], labels[0], [str(name) for name in names]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _has_binary_field(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def _records(table: Path, start: int) -> Iterator[Record]:
    with _open_parquet(table) as file:
        image, label, names = _find_columns(table, file.schema_arrow)
        row = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            if row + metadata.num_rows <= start:
                row += metadata.num_rows
                continue
            batch_rows = _batch_rows(table, metadata, image, label)
            for batch in file.iter_batches(batch_rows, row_groups=[group], columns=[image, label]):
                for number in range(max(row, start), row + len(batch)):
                    cell, person = batch.column(image)[number - row], batch.column(label)[number - row]
                    yield _record(f"{table.stem}/{number}", cell, person.as_py(), names)
                row += len(batch)


def _batch_rows(table: Path, group: pq.RowGroupMetaData, *names: str) -> int:
    """Return the number of rows to decompress at once, so that the rows fit into memory.

    A small file can expand to gigabytes, since equal cells are stored once.

    Raises:
        DatasetError: If the group expands so much that it cannot contain images.
    """
    columns = [group.column(i) for i in range(group.num_columns)]
    columns = [
        column for column in columns if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names)
    ]
    compressed: int = sum(column.total_compressed_size for column in columns)
    uncompressed: int = sum(column.total_uncompressed_size for column in columns)
    if uncompressed > max(MAX_IMAGE_BYTES, _MAX_RATIO * compressed):
        reason = f"contains no images: a row group of {compressed:,} bytes expands to {uncompressed:,}"
        raise DatasetError(reason, where=table, remedy="download it again")
    # A cell is at most as large as the sum of all different cells.
    return min(max(MAX_IMAGE_BYTES // max(uncompressed, 1), 1), _BATCH_ROWS)


def _record(name: str, cell: pa.Scalar, label: Any, names: Sequence[str]) -> Record:
    """Return a row as a record; its bytes are copied only if they are not too many for an image."""
    path = None
    if pa.types.is_struct(cell.type):
        path = cell["path"].as_py() if cell.is_valid and cell.type.get_field_index("path") >= 0 else None
        cell = cell["bytes"] if cell.is_valid else pa.NULL
    image = cell.as_buffer() if cell.is_valid else None
    name = f"{name}/{path}" if path else name
    try:
        person = _person(name, label, names)
        if not image:
            raise PhotoError("has no bytes" + (", only a path" if path else ""), where=name)
        if image.size > MAX_IMAGE_BYTES:
            raise PhotoError(f"is too large ({image.size:,} bytes)", where=name)
        return Record(name, person, image.to_pybytes())
    except PhotoError as error:
        return Record(name, "", error)


def _person(name: str, label: Any, names: Sequence[str]) -> str:
    if isinstance(label, str):
        return person_from_text(label, name)
    if not isinstance(label, int | float):
        raise PhotoError("has no label", where=name)
    number = person_from_number(label, name)
    if not names:
        return number
    if int(number) >= len(names):
        raise PhotoError(f"its label {int(number)} is beyond the {len(names)} names of the file", where=name)
    return names[int(number)]


FORMAT = ParquetTables
