"""Files of `sfplus group` that anybody may have changed: an error of one line, or the same result."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_files import DELETED, json_paths, with_value
from safetensors.numpy import save_file

from sfplus.errors import SfplusError
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.regroup import regroup

Make = Callable[..., GroupedPhotos]
_VALUES = (None, True, "x", "../x", "/etc", "a\0b", -1, 10**400, float("nan"), [], [[]], {"a": 1}, DELETED)
_TEXTS = ("", "\0\0\0\0", "{", "[]", "{}", "[" * 100_000, "9" * 5000, '["../../user"]', "[1]", '[["a", 0, "b"]]',
          '[["a", "0", "b", 1]]', '[["a", 0, "b", 1]]')  # fmt: skip


def _check(out: Path, what: object) -> None:
    """Group again: it ends well, or with an error of one line."""
    with warnings.catch_warnings(action="ignore"):
        try:
            regroup(out)
        except SfplusError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, what
        except Exception as error:
            raise AssertionError(what) from error


@pytest.mark.slow
def test_a_changed_state_is_an_error_of_one_line(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    file = out / ".sfplus/group/group.json"
    good = json.loads(file.read_text())
    for path in [path for path in json_paths(good) if path]:
        for value in _VALUES:
            file.write_text(json.dumps(with_value(good, path, value)))
            _check(out, (path, value))
            file.write_text(json.dumps(good))
    regroup(out)


@pytest.mark.parametrize("name", ["group.json", "resolved.json", "photo_folders.json"])
def test_a_damaged_file_is_an_error_of_one_line(make_grouped: Make, name: str, tmp_path: Path) -> None:
    out = make_grouped().folder
    (tmp_path / "user").write_text("user")
    regroup(out)
    for text in _TEXTS:
        good = (out / ".sfplus/group/group.json").read_bytes()
        (out / ".sfplus/group" / name).write_text(text)
        _check(out, text[:40])
        (out / ".sfplus/group/group.json").write_bytes(good)
        (out / ".sfplus/group/resolved.json").unlink(missing_ok=True)
    assert (tmp_path / "user").read_text() == "user"


_TABLES: tuple[Any, ...] = (
    {"face": ["a"], "person": [-1]}, {"face": ["a"], "person": [2**62]}, {"face": ["a"], "person": ["b"]},
    {"face": [1], "person": [1]}, {"face": [None], "person": [1]}, {"person": [1]}, {},
    {"face": ["a"], "person": [1.5]},
)  # fmt: skip


@pytest.mark.parametrize("table", _TABLES, ids=range(8))
@pytest.mark.parametrize("name", [".sfplus/group/assignments.parquet", "people.parquet"])
def test_a_changed_table_is_an_error_of_one_line(make_grouped: Make, table: dict[str, Any], name: str) -> None:
    out = make_grouped().folder
    regroup(out)
    pq.write_table(pa.table(table), out / name)
    _check(out, table)


@pytest.mark.parametrize(
    "tensors",
    [{"rows": np.full((8, 7), 99, np.int32)}, {"rows": np.full((8, 7), -1, np.int32)}, {"rows": np.zeros(8, np.int32)},
     {"rows": np.zeros((8, 7), np.float32)}, {"similarities": np.full((8, 7), np.nan, np.float32)},
     {"keys": np.zeros(3, np.uint64)}, {"keys": np.zeros((0,), np.uint64)}],
    ids=range(7),
)  # fmt: skip
def test_changed_neighbours_are_computed_again(make_grouped: Make, tensors: dict[str, Any]) -> None:
    out = make_grouped().folder
    expected = regroup(out).table
    grouped = {"rows": np.zeros((8, 7), np.int32), "similarities": np.zeros((8, 7), np.float32)}
    save_file(grouped | {"keys": np.zeros(8, np.uint64)} | tensors, out / ".sfplus/group/neighbours.safetensors")
    assert regroup(out).table == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "features", [np.full((8, 16), np.nan), np.zeros((8, 16)), np.zeros((3, 16)), np.zeros(8), np.zeros((8, 0)),
                 np.full((8, 16), np.inf), np.zeros((8, 3))],
    ids=range(7),
)  # fmt: skip
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
def test_changed_features_are_an_error_of_one_line(make_grouped: Make, features: Any, kind: type) -> None:
    out = make_grouped().folder
    regroup(out)
    with np.errstate(invalid="ignore"):
        save_file({"features": features.astype(kind)}, out / ".sfplus/features/features.safetensors")
    _check(out, features)


@pytest.mark.parametrize("name", ["people.csv", "corrections.csv"])
def test_a_changed_list_is_an_error_of_one_line(make_grouped: Make, name: str) -> None:
    out = make_grouped().folder
    header = {"people.csv": "person,name,photos,faces", "corrections.csv": "photo,face,person"}[name]
    rows = ("x", "person-00001", f"person-{'9' * 5000},a,1,1", "person-00001,a\x1b[2J,1,1", f"a.jpg,{'9' * 5000},b",
            "a.jpg,²,b", "a.jpg,0,person-999999999", "a\0b,0,c", '"', "a.jpg,-1,b", "../x,0,../../y", ",,,,,,",
            "anna-0.jpg,0,../../user", f"anna-0.jpg,0,{'n' * 5000}")  # fmt: skip
    for row in rows:
        (out / name).write_text(f"{header}\n{row}\n", "utf-8")
        _check(out, row[:60])
    assert not (out.parent / "user").exists()
