"""Readers of files of features, one for each format; none of them reads pickled objects."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from sfplus.errors import DatasetError
from sfplus.io.encodings import decode

Features = NDArray[np.floating[Any]]
Table = tuple[list[str], Features]

LAYOUT = "it must hold `names` (N) and `features` (N, d), as numpy.savez(file, names=..., features=...) writes them"
_BESIDE = "add the names beside it: {stem}.txt with one name per line, {stem}.json, names.txt or names.json"
_MAX_BYTES = 1 << 35
# Words for the arrays and columns, in lower case and without "_", in the order in which they are looked for.
_NAMES = (
    "names", "name", "photos", "photo", "paths", "path", "files", "file", "filenames", "filename", "imagepaths",
    "imagepath", "images", "image", "imgs", "img", "ids", "id", "keys", "key",
)  # fmt: skip
_FEATURES = (
    "features", "feature", "embeddings", "embedding", "embeds", "embs", "emb", "feats", "feat", "vectors", "vector",
    "x", "arr0",
)  # fmt: skip
_NEITHER = frozenset({"", "index", "label", "labels", "identity", "person", "class", "fold", "split"})
_INDEX = "index.parquet"


def _read_npz(path: Path) -> Table:
    with path.open("rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise DatasetError("is not an .npz file", where=path, remedy=LAYOUT)
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(info.file_size for info in file.zip.infolist())
            if size > _MAX_BYTES:
                raise DatasetError(f"unpacks to {size >> 30} GiB", where=path, remedy="split the file")
            arrays = {key: np.asarray(file[key]) for key in file.files}
    except DatasetError:
        raise
    except Exception as error:  # NumPy and zipfile raise errors of many types on damaged files
        remedy = "save the names as np.array(names, dtype=str), not as objects" if _is_pickled(error) else LAYOUT
        raise DatasetError(f"is not a readable .npz file ({error})", where=path, remedy=remedy) from error
    return _choose_arrays(arrays, path)


def _read_npy(path: Path) -> Table:
    try:
        array = np.asarray(np.load(path, allow_pickle=False))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # as above
        remedy = "save a matrix of numbers, and the names as text" if _is_pickled(error) else LAYOUT
        raise DatasetError(f"is not a readable .npy file ({error})", where=path, remedy=remedy) from error
    if array.dtype.names:
        return _choose_arrays({field: array[field] for field in array.dtype.names}, path)
    return _names_beside(path), array


def _read_safetensors(path: Path) -> Table:
    try:
        with safe_open(path, "numpy") as file:
            text = next((value for key, value in (file.metadata() or {}).items() if _word(key) in _NAMES), None)
        tensors = {name: _to_array(tensor) for name, tensor in deserialize(path.read_bytes())}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise DatasetError(
            f"is not a readable .safetensors file ({error})", where=path, remedy="download it again"
        ) from error
    if _is_one_per_name(tensors):
        return _choose_arrays(tensors, path)
    features = _choose(tensors, _FEATURES, lambda array: array.ndim == 2)
    if features is None:
        raise DatasetError("has no tensor `features`", where=path, remedy="save it under that name")
    return _names_beside(path) if text is None else _parse_names(text, "its metadata `names`", path), features


def _to_array(tensor: Mapping[str, Any]) -> NDArray[Any]:
    kinds = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
    values = np.frombuffer(tensor["data"], kinds.get(tensor["dtype"], "u1"))
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(tensor["shape"]) if tensor["dtype"] in kinds else values


def _read_parquet(path: Path) -> Table:
    return _choose_columns(_table(path), path)


def _read_csv(path: Path) -> Table:
    text = decode(path.read_bytes()) or ""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise DatasetError("is not a text file", where=path, remedy="give a name and the numbers in each line")
    separator = max("\t;,", key=lines[0].count)
    if separator not in lines[0]:
        separator, lines = " ", [" ".join(line.split()) for line in lines]
    first = lines[0]
    row = next(csv.reader([first], delimiter=separator))
    has_header = sum(map(_is_number, row)) <= len(row) // 2 and not any(field.lstrip()[:1] == "[" for field in row)
    columns = _unique(row) if has_header else [f"column {i}" for i in range(len(row))]
    names = columns[0]
    if has_header:
        names = _find_word(columns, _NAMES) or next((c for c in columns if _word(c) not in _NEITHER), names)
    else:
        names = next((c for c, field in zip(columns, row, strict=True) if not _is_number(field)), names)
    try:
        table = pa.csv.read_csv(
            io.BytesIO("\n".join(lines).encode()),
            pa.csv.ReadOptions(column_names=columns, skip_rows=int(has_header)),
            pa.csv.ParseOptions(delimiter=separator),
            pa.csv.ConvertOptions(column_types={names: pa.string()}, null_values=[""]),
        )
    except pa.ArrowException as error:
        raise DatasetError(f"is not a readable table ({error})", where=path, remedy="write it as CSV again") from error
    return _choose_columns(table, path, names)


def _choose_columns(table: Any, path: Path, named: str = "") -> Table:
    """Return the names and features of a table; the numbers of a feature may have a column each."""
    kinds = {column: table.schema.field(column).type for column in table.column_names}
    texts = [column for column, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    named = named or _find_word(texts, _NAMES) or (texts[0] if len(texts) == 1 else "")
    if not named or named not in texts:
        raise DatasetError("has no column `names` of strings", where=path, remedy=LAYOUT)
    names = table[named].to_pylist()
    rest = {column: kind for column, kind in kinds.items() if column != named}
    wide = [c for c, kind in rest.items() if _is_number_type(kind) and _word(c) not in _NEITHER]
    # `x` beside `y` is one number of a feature
    single = {column for column in wide if _word(column) == "x"} if len(wide) > 1 else set()
    features = _find_word((column for column in rest if column not in single), _FEATURES)
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
    try:
        widths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if len(column) else np.zeros(0)
        values = column.flatten().to_numpy(zero_copy_only=False)
    except (AttributeError, TypeError) as error:
        raise DatasetError(f"its column `{name}` does not hold lists", where=path, remedy=LAYOUT) from error
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


def _choose_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> Table:
    """Return the arrays with the names and the features; or all arrays, if each is the feature of its name."""
    if _is_one_per_name(arrays):
        return list(arrays), np.stack(list(arrays.values()))
    strings = {key: array for key, array in arrays.items() if array.dtype.kind in "US" or _word(key) in _NAMES}
    names = _choose(strings, _NAMES, lambda array: array.ndim == 1)
    rest = {key: array for key, array in arrays.items() if array is not names}
    features = _choose(rest, _FEATURES, lambda array: array.ndim == 2 and array.dtype.kind == "f")
    if names is None or features is None:
        held = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in list(arrays.items())[:4])
        raise DatasetError(f"does not hold `names` and `features`, but {held}", where=path, remedy=LAYOUT)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DatasetError(f"its names are {names.dtype} {names.shape}, not strings (N,)", where=path, remedy=LAYOUT)
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names.tolist()], features


def _is_one_per_name(arrays: Mapping[str, NDArray[Any]]) -> bool:
    shapes = {array.shape for array in arrays.values()}
    is_float = all(array.dtype.kind == "f" for array in arrays.values())
    return len(arrays) > 1 and is_float and len(shapes) == 1 and len(next(iter(shapes))) == 1


def _choose(
    arrays: Mapping[str, NDArray[Any]], words: Iterable[str], fits: Callable[[NDArray[Any]], bool]
) -> NDArray[Any] | None:
    """Return the array that is called by one of the words, or else the only one that fits."""
    if found := _find_word(arrays, words):
        return arrays[found]
    fitting = [array for array in arrays.values() if fits(array)]
    return fitting[0] if len(fitting) == 1 else None


def _find_word(keys: Iterable[str], words: Iterable[str]) -> str | None:
    by_word = {_word(key): key for key in keys}
    return next((by_word[word] for word in words if word in by_word), None)


def _word(key: str) -> str:
    return key.strip().lower().replace("_", "").replace(" ", "").split(":")[0].removeprefix("unnamed")


def _names_beside(path: Path) -> list[str]:
    """Read the names of features from a file beside theirs."""
    own = [path.with_suffix(".txt"), path.with_suffix(".json"), path.with_suffix(".names.npy")]
    shared = [path.with_name(name) for name in ("names.txt", "names.json", "names.npy", _INDEX)]
    file = next((file for file in (*own, *shared) if file.is_file()), None)
    if file is None:
        remedy = _BESIDE.format(stem=path.stem)
        raise DatasetError("does not name the photos of its features", where=path, remedy=remedy)
    if file.name == _INDEX:
        table = _table(file)
        column = _find_word(table.column_names, _NAMES)
        names = table[column].to_pylist() if column else [None]
        if not all(isinstance(name, str) for name in names):
            raise DatasetError("has no column `names` of strings", where=file, remedy=LAYOUT)
        return list(names)
    if file.suffix == ".npy":
        return _choose_arrays({"names": np.load(file, allow_pickle=False), "features": np.zeros((1, 1))}, file)[0]
    text = decode(file.read_bytes()) or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _parse_names(text, "it", file) if file.suffix == ".json" else lines


def _parse_names(text: str, what: str, path: Path) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{what} is not JSON", where=path, remedy="write a JSON list") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{what} is not a list of strings", where=path, remedy="write a JSON list of names")
    return names


def _table(path: Path) -> Any:
    try:
        table = pq.read_table(path)
        for i, kind in enumerate(table.schema.types):
            if pa.types.is_dictionary(kind):  # a category of pandas
                table = table.set_column(i, table.column_names[i], table.column(i).cast(kind.value_type))
        return table
    except pa.ArrowException as error:
        raise DatasetError("is not a readable Parquet file", where=path, remedy="download it again") from error


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _unique(names: Sequence[str]) -> list[str]:
    return [name if names.index(name) == i else f"{name} {i}" for i, name in enumerate(names)]


def _is_pickled(error: Exception) -> bool:
    return "allow_pickle" in str(error)


READERS: dict[str, Callable[[Path], Table]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}
