"""Parquet files of others, whose columns have any names and types.

A file of a few bytes may contain one value a billion times. Its metadata tells how many values there are, so that it is
refused before they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfplus.errors import SfplusError, explain_damage
from sfplus.io.files import file_size
from sfplus.io.limits import check_expansion, check_limit

# Bytes of a value in memory by its physical type; texts are read as the numbers of different texts.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}


@contextmanager
def open_parquet(
    path: Path, *, remedy: str, error: type[SfplusError], dictionaries: Sequence[str] | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; damage that is found while it is read in the block raises the same error.

    Args:
        path: the file.
        remedy: what to do about a damaged file.
        error: the class of the exception.
        dictionaries: columns of texts to read as dictionaries, in which equal texts are stored once.

    Raises:
        SfplusError: If the file cannot be read, is damaged, or has too many columns or two of one name.
    """
    try:
        with explain_damage(path, remedy=remedy, error=error):
            file_size(path)  # raises for a pipe, which would be waited for
            file = pq.ParquetFile(path, read_dictionary=dictionaries)
            names = file.schema_arrow.names
            _check_metadata(path, file.metadata)
        with file:
            check_limit("table_columns", file.metadata.num_columns, path, error=error)
            if len(set(names)) < len(names):
                raise error("has two columns of the same name", where=path, remedy=remedy)
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
        with explain_damage(path, remedy=remedy, error=error):
            raise fault


def _check_metadata(path: Path, metadata: pq.FileMetaData) -> None:
    """Let Arrow check the metadata of all columns, without reading any value.

    pyarrow ends the process when `metadata.row_group(i).column(j)` meets damage (pyarrow 26), whereas its readers raise
    an exception. With batches of no row they read the metadata only.
    """
    with pq.ParquetFile(path, metadata=metadata) as file:
        for group in range(metadata.num_row_groups):
            list(file.reader.iter_batches(0, [group]))


def read_table(path: Path, columns: Sequence[str] | None = None, *, remedy: str, error: type[SfplusError]) -> pa.Table:
    """Read the columns of texts, numbers and lists of numbers of a Parquet file, and check all their values.

    Texts are valid UTF-8 in the result; categories become texts.

    Args:
        path: the file.
        columns: the columns to read; a missing one is an error. None: all of these types.
        remedy: what to do about a damaged file.
        error: the class of the exception.

    Raises:
        SfplusError: If the file cannot be read, is damaged, lacks one of the columns, or has values above the limits
            `feature_bytes` and `expansion`.
    """
    with open_parquet(path, remedy=remedy, error=error) as file:
        schema = file.schema_arrow
        texts = [field.name for field in schema if is_text(field.type)]
        readable = [field.name for field in schema if is_text(field.type) or _is_numeric(field.type)]
        for name in columns or ():
            if name not in readable:
                raise error(f"is damaged (it has no column '{name}' of texts or numbers)", where=path, remedy=remedy)
    with open_parquet(path, remedy=remedy, error=error, dictionaries=texts) as file:
        _check_size(_decoded_bytes(file), path, error)
        table = file.read(readable if columns is None else list(columns))
        for number, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                column = table.column(number)
                _check_size(_text_bytes(column), path, error)
                table = table.set_column(number, field.name, column.cast(field.type.value_type))
        table.validate(full=True)
        return table


def is_text(kind: pa.DataType) -> bool:
    """Return True for text and for categories, which are dictionaries of texts."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_numeric(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    kind = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _decoded_bytes(file: pq.ParquetFile) -> int:
    """Return the size of all columns in memory, with texts as numbers."""
    total = 0
    for group in range(file.metadata.num_row_groups):
        metadata = file.metadata.row_group(group)
        for number in range(metadata.num_columns):
            column = metadata.column(number)
            width = _WIDTHS.get(column.physical_type) or file.schema.column(number).length
            total += max(column.num_values * width, column.total_uncompressed_size)
    return total


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Return the size of the texts of a dictionary when each is repeated as often as it is used."""
    chunks = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(lengths, min_count=0).as_py() or 0 for lengths in chunks)


def _check_size(size: int, path: Path, error: type[SfplusError]) -> None:
    check_limit("feature_bytes", size, path, error=error)
    check_expansion(size, file_size(path), path, error=error)
