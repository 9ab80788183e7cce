"""Tables of features: Parquet and CSV, with a column of names and a column of features or one for each number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from sfplus.errors import DatasetError, explain_damage
from sfplus.io.encodings import decode
from sfplus.io.foreign_parquet import read_table
from sfplus.io.limits import check_limit

Features = NDArray[np.floating[Any]]
Table = tuple[list[str], Features]

LAYOUT = "it must hold `names` (N) and `features` (N, d), as numpy.savez(file, names=..., features=...) writes them"
_CSV = "write it as CSV again"
# Words for the arrays and columns, in lower case and without "_", in the order in which they are looked for.
NAMES = (
    "names", "name", "photos", "photo", "paths", "path", "files", "file", "filenames", "filename", "imagepaths",
    "imagepath", "images", "image", "imgs", "img", "ids", "id", "keys", "key",
)  # fmt: skip
FEATURES = (
    "features", "feature", "embeddings", "embedding", "embeds", "embs", "emb", "feats", "feat", "vectors", "vector",
    "x", "arr0",
)  # fmt: skip
_NEITHER = frozenset({"", "index", "label", "labels", "identity", "person", "class", "fold", "split"})


def read_parquet(path: Path) -> Table:
    """Read features from a Parquet file, like `read_features`."""
    return _choose_columns(parquet_table(path), path)


def parquet_table(path: Path) -> pa.Table:
    """Read the columns of texts, numbers and lists of a Parquet file.

    Raises:
        DatasetError: If the file cannot be read, is damaged or too large.
    """
    return read_table(path, remedy="download it again", error=DatasetError)


def read_csv(path: Path) -> Table:
    """Read features from a CSV file, like `read_features`."""
    text = decode(path.read_bytes()) or ""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise DatasetError("is not a text file", where=path, remedy="give a name and the numbers in each line")
    separator = max("\t;,", key=lines[0].count)
    if separator not in lines[0]:
        separator, lines = " ", [" ".join(line.split()) for line in lines]
    first = lines[0]
    with explain_damage(path, remedy=_CSV, error=DatasetError):
        row = next(csv.reader([first], delimiter=separator))
    check_limit("table_columns", len(row), path, error=DatasetError)
    has_header = sum(map(_is_number, row)) <= len(row) // 2 and not any(field.lstrip()[:1] == "[" for field in row)
    columns = _unique(row) if has_header else [f"column {i}" for i in range(len(row))]
    names = columns[0]
    if has_header:
        names = find_word(columns, NAMES) or next((c for c in columns if word(c) not in _NEITHER), names)
    else:
        names = next((c for c, field in zip(columns, row, strict=True) if not _is_number(field)), names)
    with explain_damage(path, remedy=_CSV, error=DatasetError):
        table = pa.csv.read_csv(
            io.BytesIO("\n".join(lines).encode()),
            pa.csv.ReadOptions(column_names=columns, skip_rows=int(has_header)),
            pa.csv.ParseOptions(delimiter=separator),
            pa.csv.ConvertOptions(column_types={names: pa.string()}, null_values=[""]),
        )
        table.validate(full=True)
    return _choose_columns(table, path, names)


def _choose_columns(table: Any, path: Path, named: str = "") -> Table:
    """Return the names and features of a table; the numbers of a feature may have a column each."""
    kinds = dict(zip(table.column_names, table.schema.types, strict=True))
    texts = [column for column, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    named = named or find_word(texts, NAMES) or (texts[0] if len(texts) == 1 else "")
    if not named or named not in texts:
        raise DatasetError("has no column `names` of strings", where=path, remedy=LAYOUT)
    names = table[named].to_pylist()
    rest = {column: kind for column, kind in kinds.items() if column != named}
    wide = [c for c, kind in rest.items() if _is_number_type(kind) and word(c) not in _NEITHER]
    # `x` beside `y` is one number of a feature
    single = {column for column in wide if word(column) == "x"} if len(wide) > 1 else set()
    features = find_word((column for column in rest if column not in single), FEATURES)
    features = features or next((column for column, kind in rest.items() if _is_list(kind)), None)
    if features is None and len(texts) == 2:  # lists that were written as text
        features = next(column for column in texts if column != named)
    if None in names:
        raise DatasetError("has rows without a name", where=path, remedy=LAYOUT)
    if features is not None:
        return names, _list_column(table[features].combine_chunks(), features, path)
    if not any(pa.types.is_floating(rest[column]) for column in wide):
        raise DatasetError("has no column `features`", where=path, remedy=LAYOUT)
    if any(table[column].null_count for column in wide):
        raise DatasetError("its features differ in length", where=path, remedy=LAYOUT)
    return names, np.stack([table[column].to_numpy() for column in wide], 1).astype(np.float64)


def _list_column(column: Any, name: str, path: Path) -> Features:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parse_lists(column.to_pylist(), name, path)
    if not _is_list(column.type):
        raise DatasetError(f"its column `{name}` does not hold lists", where=path, remedy=LAYOUT)
    widths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if len(column) else np.zeros(0)
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(widths) != 1 or column.null_count or not widths[0] > 0:
        raise DatasetError("its features differ in length", where=path, remedy=LAYOUT)
    return np.asarray(values.reshape(len(column), -1))


def _parse_lists(texts: Sequence[str | None], name: str, path: Path) -> Any:
    """Parse lists that pandas wrote as text: `[0.1, 0.2]`, or `[0.1 0.2]` of a NumPy array."""
    try:
        rows = [[float(word) for word in (text or "").strip("[]() \n").replace(",", " ").split()] for text in texts]
    except ValueError as error:
        raise DatasetError(f"its column `{name}` does not hold lists ({error})", where=path, remedy=LAYOUT) from None
    return pa.array(rows, pa.list_(pa.float64()))


def _is_number_type(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def find_word(keys: Iterable[str], words: Iterable[str]) -> str | None:
    """Return the key that is called by the first of the words, or None."""
    by_word = {word(key): key for key in keys}
    return next((by_word[candidate] for candidate in words if candidate in by_word), None)


def word(key: str) -> str:
    """Return the name of an array or a column as it is compared: in lower case, without `_` and spaces."""
    return key.strip().lower().replace("_", "").replace(" ", "").split(":")[0].removeprefix("unnamed")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _unique(names: Sequence[str]) -> list[str]:
    """Return names of columns with a number after those that occurred before."""
    unique: dict[str, None] = {}
    for number, name in enumerate(names):
        while name in unique:
            name = f"{name} {number}"
        unique[name] = None
    return list(unique)
