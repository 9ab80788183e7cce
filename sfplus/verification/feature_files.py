"""Readers of files of features, one for each format; none of them reads pickled objects."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize, safe_open

from sfplus.errors import DatasetError, explain_damage
from sfplus.io.encodings import decode
from sfplus.io.files import file_size
from sfplus.io.json_files import parse_json
from sfplus.io.limits import check_expansion, check_limit
from sfplus.verification.feature_tables import (
    FEATURES,
    LAYOUT,
    NAMES,
    Table,
    find_word,
    parquet_table,
    read_csv,
    read_parquet,
    word,
)

_BESIDE = "add the names beside it: {stem}.txt with one name per line, {stem}.json, names.txt or names.json"
_INDEX = "index.parquet"
_MAGIC = b"\x93NUMPY"
_MATRIX = "save a matrix of numbers, and the names as text: np.array(names, dtype=str), not as objects"
_MAX_CODE = 0x10FFFF  # the last character of Unicode


def _read_npz(path: Path) -> Table:
    with path.open("rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise DatasetError("is not an .npz file", where=path, remedy=LAYOUT)
    with explain_damage(path, remedy=LAYOUT, error=DatasetError), zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    check_limit("feature_bytes", size, path, error=DatasetError)
    check_expansion(size, file_size(path), path, error=DatasetError)
    with _explain_numpy(path), np.load(path, allow_pickle=False) as file:
        arrays = {key: np.asarray(file[key]) for key in file.files}
    return _choose_arrays(arrays, path)


def _read_npy(path: Path) -> Table:
    array = _load(path)
    if array.dtype.names:
        return _choose_arrays({field: array[field] for field in array.dtype.names}, path)
    return _names_beside(path), array


def _load(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DatasetError("is not an .npy file", where=path, remedy=_MATRIX)
    with _explain_numpy(path):
        return np.asarray(np.load(path, allow_pickle=False))


@contextmanager
def _explain_numpy(path: Path) -> Iterator[None]:
    """Turn any exception of NumPy into one line; its advice to unpickle objects is not repeated."""
    try:
        with explain_damage(path, remedy=LAYOUT, error=DatasetError):
            yield
    except DatasetError as error:
        if "allow_pickle" not in error.reason:
            raise
        raise DatasetError("holds pickled objects, which are not read", where=path, remedy=_MATRIX) from error


def _read_safetensors(path: Path) -> Table:
    with explain_damage(path, remedy="download it again", error=DatasetError):
        with safe_open(path, "numpy") as file:
            text = next((value for key, value in (file.metadata() or {}).items() if word(key) in NAMES), None)
        tensors = {name: _to_array(tensor) for name, tensor in deserialize(path.read_bytes())}  # type: ignore[no-untyped-call]
    if _is_one_per_name(tensors):
        return _choose_arrays(tensors, path)
    features = _choose(tensors, FEATURES, lambda array: array.ndim == 2)
    if features is None:
        raise DatasetError("has no tensor `features`", where=path, remedy="save it under that name")
    return _names_beside(path) if text is None else _parse_names(text, f"{path}, metadata `names`"), features


def _to_array(tensor: Mapping[str, Any]) -> NDArray[Any]:
    kinds = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
    values = np.frombuffer(tensor["data"], kinds.get(tensor["dtype"], "u1"))
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(tensor["shape"]) if tensor["dtype"] in kinds else values


def _choose_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> Table:
    """Return the arrays with the names and the features; or all arrays, if each is the feature of its name."""
    if _is_one_per_name(arrays):
        return list(arrays), np.stack(list(arrays.values()))
    strings = {key: array for key, array in arrays.items() if array.dtype.kind in "US" or word(key) in NAMES}
    names = _choose(strings, NAMES, lambda array: array.ndim == 1)
    rest = {key: array for key, array in arrays.items() if array is not names}
    features = _choose(rest, FEATURES, lambda array: array.ndim == 2 and array.dtype.kind == "f")
    if names is None or features is None:
        held = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in list(arrays.items())[:4])
        raise DatasetError(f"does not hold `names` and `features`, but {held}", where=path, remedy=LAYOUT)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DatasetError(f"its names are {names.dtype} {names.shape}, not strings (N,)", where=path, remedy=LAYOUT)
    return _to_texts(names, path), features


def _to_texts(names: NDArray[Any], path: Path) -> list[str]:
    if names.dtype.kind == "S":
        return [name.decode("utf-8", "replace") for name in names.tolist()]
    codes = np.ascontiguousarray(names, names.dtype.newbyteorder("=")).view(np.uint32)
    if codes.size and codes.max() > _MAX_CODE:
        raise DatasetError("its names are not text", where=path, remedy=_MATRIX)
    return [str(name) for name in names.tolist()]


def _is_one_per_name(arrays: Mapping[str, NDArray[Any]]) -> bool:
    shapes = {array.shape for array in arrays.values()}
    is_float = all(array.dtype.kind == "f" for array in arrays.values())
    return len(arrays) > 1 and is_float and len(shapes) == 1 and len(next(iter(shapes))) == 1


def _choose(
    arrays: Mapping[str, NDArray[Any]], words: Iterable[str], fits: Callable[[NDArray[Any]], bool]
) -> NDArray[Any] | None:
    """Return the array that is called by one of the words, or else the only one that fits."""
    if name := find_word(arrays, words):
        return arrays[name]
    fitting = [array for array in arrays.values() if fits(array)]
    return fitting[0] if len(fitting) == 1 else None


def _names_beside(path: Path) -> list[str]:
    """Read the names of features from a file beside theirs."""
    own_files = [path.with_suffix(".txt"), path.with_suffix(".json"), path.with_suffix(".names.npy")]
    shared = [path.with_name(name) for name in ("names.txt", "names.json", "names.npy", _INDEX)]
    file = next((file for file in (*own_files, *shared) if file.is_file()), None)
    if file is None:
        remedy = _BESIDE.format(stem=path.stem)
        raise DatasetError("does not name the photos of its features", where=path, remedy=remedy)
    if file.name == _INDEX:
        table = parquet_table(file)
        column = find_word(table.column_names, NAMES)
        names = table[column].to_pylist() if column else [None]
        if not all(isinstance(name, str) for name in names):
            raise DatasetError("has no column `names` of strings", where=file, remedy=LAYOUT)
        return list(names)
    if file.suffix == ".npy":
        return _choose_arrays({"names": _load(file), "features": np.zeros((1, 1))}, file)[0]
    if file.suffix == ".json":
        return _parse_names(file.read_bytes(), file)
    check_limit("text_bytes", file_size(file), file, error=DatasetError)
    text = decode(file.read_bytes()) or ""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _parse_names(text: bytes | str, where: str | Path) -> list[str]:
    check_limit("json_bytes", len(text), where, error=DatasetError)
    remedy = "write a JSON list of names"
    return parse_json(text, list[str], where=where, remedy=remedy, error=DatasetError)


READERS: dict[str, Callable[[Path], Table]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": read_csv,
}
