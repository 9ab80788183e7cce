"""Features computed elsewhere: read them from a file and look them up by the names of photos."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sfplus.datasets.pairs import without_suffix
from sfplus.errors import DatasetError, PairsError

_INDEX = "index.parquet"  # in the folder of a safetensors file, as the embed stage writes it
_MAX_BYTES = 1 << 35  # of features
_LISTED = 3  # names in a message
_LAYOUT = "it must hold `names` (N) and `features` (N, d), as numpy.savez(file, names=..., features=...) writes them"

Features = NDArray[np.floating[Any]]


def read_features(path: Path) -> tuple[list[str], Features]:
    """Read the features of photos from a file.

    Supported formats:

    - `.npz` with the arrays `names` (N,) of strings and `features` (N, d); pickled objects are rejected;
    - `.safetensors` with the tensor `features`, and the names either in `index.parquet` in the same folder (column
      `photo`, as the embed stage writes it) or as a JSON list in the file's metadata under `names`;
    - `.parquet` with the columns `names` (or `photo`) and `features` (lists of equal length).

    Args:
        path: the file.

    Returns:
        Names of photos without extension, as in lists of pairs, and their features (N, d), float32 or float64.

    Raises:
        DatasetError: If the file is missing, damaged or of a different layout, a feature is not finite, or a name
            occurs twice.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError("is not a file of features", where=path, remedy=f"give {', '.join(readers)}")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatasetError(f"is larger than {_MAX_BYTES >> 30} GiB", where=path, remedy="split the file")
        names, features = reader(path)
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="check the path"
        ) from error
    if features.dtype == np.float16:
        features = features.astype(np.float32)
    if features.ndim != 2 or features.dtype not in (np.float32, np.float64) or not features.size:
        reason = f"its features are {features.dtype} {features.shape}, not floating-point numbers (N, d)"
        raise DatasetError(reason, where=path, remedy=_LAYOUT)
    if len(names) != len(features):
        raise DatasetError(f"holds {len(names)} names for {len(features)} features", where=path, remedy=_LAYOUT)
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        photos = _shorten([names[i] for i in bad])
        reason = f"features of {len(bad)} photos hold NaN or infinity: {photos}"
        raise DatasetError(reason, where=path, remedy="check the model and these photos")
    names = [without_suffix(name.replace("\\", "/").removeprefix("./")) for name in names]
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() for _ in range(count - 1)]
        reason = f"{len(repeated)} names occur more than once: {_shorten(repeated)}"
        raise DatasetError(reason, where=path, remedy="keep one feature for each photo")
    return names, features


def rows_of(names: Sequence[str], photos: Iterable[str], path: Path) -> NDArray[np.int64]:
    """Return the row of the features of each photo.

    Args:
        names: names of the features, as `read_features` returns them.
        photos: names of photos, as in lists of pairs; the extension is optional.
        path: the file of features, for the message.

    Returns:
        int64, one row for each photo.

    Raises:
        PairsError: If photos have no features.
    """
    row_of = {name: row for row, name in enumerate(names)}
    rows = [row_of.get(without_suffix(photo), -1) for photo in photos]
    if -1 in rows:
        missing = sorted({photo for photo, row in zip(photos, rows, strict=True) if row < 0})
        reason = f"has no features of {len(missing)} photos of the pairs: {_shorten(missing)}"
        raise PairsError(reason, where=path, remedy="add them, or leave their pairs out")
    return np.array(rows, dtype=np.int64)


def _read_npz(path: Path) -> tuple[list[str], Features]:
    with path.open("rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise DatasetError("is not an .npz file", where=path, remedy=_LAYOUT)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"names", "features"} <= set(file.files):
                raise DatasetError("does not hold `names` and `features`", where=path, remedy=_LAYOUT)
            size = sum(info.file_size for info in file.zip.infolist())
            if size > _MAX_BYTES:
                raise DatasetError(f"unpacks to {size >> 30} GiB", where=path, remedy="split the file")
            names, features = file["names"], file["features"]
    except DatasetError:
        raise
    except Exception as error:  # NumPy and zipfile raise errors of many types on damaged files
        raise DatasetError(f"is not a readable .npz file ({error})", where=path, remedy=_LAYOUT) from error
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DatasetError(f"its names are {names.dtype} {names.shape}, not strings (N,)", where=path, remedy=_LAYOUT)
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    return names.tolist(), features


def _read_safetensors(path: Path) -> tuple[list[str], Features]:
    index = path.with_name(_INDEX)
    try:
        with safe_open(path, "numpy") as file:
            if "features" not in file.keys():  # noqa: SIM118 - not a dict
                raise DatasetError("has no tensor `features`", where=path, remedy="save it under that name")
            features, text = file.get_tensor("features"), (file.metadata() or {}).get("names")
    except SafetensorError as error:
        raise DatasetError(
            f"is not a readable .safetensors file ({error})", where=path, remedy="download it again"
        ) from error
    if text is None:
        if not index.is_file():
            remedy = f"add {_INDEX} with a column `photo` to its folder, or a JSON list `names` to its metadata"
            raise DatasetError("does not name the photos of its features", where=path, remedy=remedy)
        return _names(_table(index), index), features
    try:
        names = json.loads(text)
    except ValueError as error:
        raise DatasetError("its metadata `names` is not JSON", where=path, remedy="write a JSON list") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            "its metadata `names` is not a list of strings", where=path, remedy="write a JSON list of names"
        )
    return names, features


def _read_parquet(path: Path) -> tuple[list[str], Features]:
    table = _table(path)
    if "features" not in table.column_names:
        raise DatasetError("has no column `features`", where=path, remedy=_LAYOUT)
    names, column = _names(table, path), table["features"].combine_chunks()
    try:
        widths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if len(column) else np.zeros(0)
        values = column.flatten().to_numpy(zero_copy_only=False)
    except (AttributeError, TypeError) as error:
        raise DatasetError("its column `features` does not hold lists", where=path, remedy=_LAYOUT) from error
    if len(widths) != 1 or column.null_count or not widths[0] > 0:
        raise DatasetError("its features differ in length", where=path, remedy=_LAYOUT)
    return names, values.reshape(len(column), -1)


def _table(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except pa.ArrowException as error:
        raise DatasetError("is not a readable Parquet file", where=path, remedy="download it again") from error


def _names(table: Any, path: Path) -> list[str]:
    column = next((name for name in ("names", "photo") if name in table.column_names), None)
    names = table[column].to_pylist() if column else []
    if column is None or not all(isinstance(name, str) for name in names):
        raise DatasetError("has no column `names` of strings", where=path, remedy=_LAYOUT)
    return names


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:_LISTED]) + (" ..." if len(names) > _LISTED else "")
