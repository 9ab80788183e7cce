"""Features that were made elsewhere: read them from a file, find them by the names of photos."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs import without_suffix
from sfplus.errors import DatasetError, PairsError

_INDEX = "index.parquet"  # beside a safetensors file, as the embed stage writes it
_MOST = 1 << 35  # bytes of features
_SHOWN = 3
_LAYOUT = "it must hold `names` (N) and `features` (N, d), as numpy.savez(file, names=..., features=...) writes them"

Features = NDArray[np.floating[Any]]


def read_features(path: Path) -> tuple[list[str], Features]:
    """Read the features of photos.

    - `.npz` with the arrays `names` (N,) of text and `features` (N, d); pickled objects are refused;
    - `.safetensors` with the tensor `features`, and the names in `index.parquet` beside it (column `photo`, as the
      embed stage writes it) or, as a JSON list, in the file's metadata under `names`;
    - `.parquet` with the columns `names` (or `photo`) and `features` (lists of equal length).

    Args:
        path: the file.

    Returns:
        Names of photos without extension, as lists of pairs have them, and their features (N, d), float32 or float64.

    Raises:
        DatasetError: the file is missing, damaged or not of this layout; a feature is not finite; a name comes twice.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError("is no file of features", where=path, remedy=f"give {', '.join(readers)}")
    try:
        if path.stat().st_size > _MOST:
            raise DatasetError(f"is larger than {_MOST >> 30} GiB", where=path, remedy="split the file")
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
        reason = f"features of {len(bad)} photos hold NaN or infinity: {_list([names[i] for i in bad[: _SHOWN + 1]])}"
        raise DatasetError(reason, where=path, remedy="check the model and these photos")
    names = [without_suffix(name.replace("\\", "/").removeprefix("./")) for name in names]
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        reason = f"{len(twice)} names come more than once: {_list(twice)}"
        raise DatasetError(reason, where=path, remedy="keep one feature for each photo")
    return names, features


def rows_of(names: Sequence[str], photos: Iterable[str], where: Path) -> NDArray[np.int64]:
    """The row of each photo among the names of features.

    Args:
        names: as `read_features` gives them.
        photos: as lists of pairs name them; the extension is optional.
        where: the file of features, for the message.

    Raises:
        PairsError: photos have no features.
    """
    row = {name: i for i, name in enumerate(names)}
    found = [row.get(without_suffix(photo), -1) for photo in photos]
    if -1 in found:
        missing = sorted({photo for photo, i in zip(photos, found, strict=True) if i < 0})
        reason = f"has no features of {len(missing)} photos of the pairs: {_list(missing)}"
        raise PairsError(reason, where=where, remedy="add them, or leave their pairs out")
    return np.array(found, dtype=np.int64)


def _read_npz(path: Path) -> tuple[list[str], Features]:
    with path.open("rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise DatasetError("is no .npz", where=path, remedy=_LAYOUT)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"names", "features"} <= set(file.files):
                raise DatasetError("does not hold names and features", where=path, remedy=_LAYOUT)
            size = sum(info.file_size for info in file.zip.infolist())
            if size > _MOST:
                raise DatasetError(f"unpacks to {size >> 30} GiB", where=path, remedy="split the file")
            names, features = file["names"], file["features"]
    except DatasetError:
        raise
    except Exception as error:  # NumPy and zipfile raise all sorts of errors on damaged files
        raise DatasetError(f"is no readable .npz ({error})", where=path, remedy=_LAYOUT) from error
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DatasetError(f"its names are {names.dtype} {names.shape}, not text (N,)", where=path, remedy=_LAYOUT)
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    return names.tolist(), features


def _read_safetensors(path: Path) -> tuple[list[str], Features]:
    from safetensors import SafetensorError, safe_open

    index = path.with_name(_INDEX)
    try:
        with safe_open(path, "numpy") as file:
            if "features" not in file.keys():  # noqa: SIM118 - it is no dict
                raise DatasetError("holds no tensor `features`", where=path, remedy="save it under that name")
            features, text = file.get_tensor("features"), (file.metadata() or {}).get("names")
    except SafetensorError as error:
        raise DatasetError(f"is no readable .safetensors ({error})", where=path, remedy="get it again") from error
    if text is None:
        if not index.is_file():
            remedy = f"put {_INDEX} with a column `photo` beside it, or a JSON list `names` into its metadata"
            raise DatasetError("does not say which photos its features are of", where=path, remedy=remedy)
        return _names(_table(index), index), features
    try:
        names = json.loads(text)
    except ValueError as error:
        raise DatasetError("its metadata `names` is no JSON", where=path, remedy="write a JSON list") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError("its metadata `names` is no list of text", where=path, remedy="write a JSON list of names")
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
        raise DatasetError("its column `features` holds no lists", where=path, remedy=_LAYOUT) from error
    if len(widths) != 1 or column.null_count or not widths[0] > 0:
        raise DatasetError("its features are not of one length", where=path, remedy=_LAYOUT)
    return names, values.reshape(len(column), -1)


def _table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except pa.ArrowException as error:
        raise DatasetError("is no readable Parquet file", where=path, remedy="get it again") from error


def _names(table: Any, path: Path) -> list[str]:
    column = next((name for name in ("names", "photo") if name in table.column_names), None)
    names = table[column].to_pylist() if column else []
    if column is None or not all(isinstance(name, str) for name in names):
        raise DatasetError("has no column `names` of text", where=path, remedy=_LAYOUT)
    return names


def _list(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
