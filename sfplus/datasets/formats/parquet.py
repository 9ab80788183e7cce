"""Parquet files with a column of encoded images and a column of labels, as in Hugging Face data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfplus.datasets.records import PhotoCollection, Record, person_from_number, person_from_text, skip_records
from sfplus.datasets.shards import list_shards, select_split
from sfplus.errors import DatasetError, PhotoError
from sfplus.images import list_photos
from sfplus.io.files import file_size
from sfplus.io.foreign_parquet import is_text, open_parquet
from sfplus.io.limits import check_expansion, check_limit, limit

_LABELS = ("label", "identity", "person", "labels", "id", "name", "class", "target")
_BATCH_ROWS = 16  # rows that are decompressed at once; fewer where cells may be large
_ROW_BYTES = 16  # a file without images may have this many bytes per row, and images need many times more
_FEW_ROWS = 100_000
_REMEDY = "download it again"
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
                self._counts.append(_row_count(table, file))
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


def _open_parquet(table: Path) -> AbstractContextManager[pq.ParquetFile]:
    return open_parquet(table, remedy=_REMEDY, error=DatasetError)


def _row_count(table: Path, file: pq.ParquetFile) -> int:
    """Return the number of rows; a tiny file with millions of rows has no images, but a failure for each row."""
    rows, size = int(file.metadata.num_rows), file_size(table)
    if rows > max(_FEW_ROWS, size // _ROW_BYTES):
        raise DatasetError(f"contains no images: it has {rows:,} rows in {size:,} bytes", where=table, remedy=_REMEDY)
    return rows


def _find_columns(table: Path, schema: pa.Schema) -> tuple[str, str, list[str]]:
    """Return the column of images, the column of labels, and the names of the labels (often none)."""
    images = [column.name for column in schema if _is_binary(column.type) or _has_binary_field(column.type)]
    labels = [name for name in _LABELS if name in schema.names and _is_label(schema.field(name).type)]
    if not images or not labels:
        raise DatasetError(f"has the columns {', '.join(schema.names)}", where=table, remedy=_REQUIRED)
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = list(features[labels[0]].get("names") or [])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        names = []
    return images[0], labels[0], [str(name) for name in names]


def _is_label(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return is_text(kind) or bool(is_number)


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
            used = _used_columns(file.schema_arrow, image, label)
            batch_rows = _batch_rows(table, metadata, used)
            for batch in file.iter_batches(batch_rows, row_groups=[group], columns=used):
                batch.validate(full=True)
                for number in range(max(row, start), row + len(batch)):
                    cell, person = batch.column(image)[number - row], batch.column(label)[number - row]
                    yield _record(f"{table.stem}/{number}", cell, person.as_py(), names)
                row += len(batch)


def _used_columns(schema: pa.Schema, image: str, label: str) -> list[str]:
    """Return the columns to read; of a column of images only its bytes and paths, since others may be huge."""
    kind = schema.field(image).type
    if _is_binary(kind):
        return [image, label]
    has_path = any(field.name == "path" and is_text(field.type) for field in kind)
    return [f"{image}.bytes", *[f"{image}.path"] * has_path, label]


def _batch_rows(table: Path, group: pq.RowGroupMetaData, used: Sequence[str]) -> int:
    """Return the number of rows to decompress at once, so that the rows fit into memory.

    A small file can expand to gigabytes, since equal cells are stored once.

    Raises:
        DatasetError: If the group expands so much that it cannot contain images.
    """
    columns = [group.column(i) for i in range(group.num_columns)]
    columns = [column for column in columns if column.path_in_schema in used]
    compressed: int = sum(column.total_compressed_size for column in columns)
    uncompressed: int = sum(column.total_uncompressed_size for column in columns)
    check_expansion(uncompressed, compressed, table, error=DatasetError)
    # A cell is at most as large as the sum of all different cells.
    return min(max(limit("encoded_image_bytes") // max(uncompressed, 1), 1), _BATCH_ROWS)


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
        check_limit("encoded_image_bytes", image.size, name, error=PhotoError)
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
    if not names[int(number)].strip() or not names[int(number)].isprintable():
        raise PhotoError(f"its label {int(number)} has no readable name in the file", where=name)
    return names[int(number)]


FORMAT = ParquetTables
