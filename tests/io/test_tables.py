"""Parquet tables and JSON lines, also those that somebody changed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfplus.errors import ArtefactError
from sfplus.io.tables import Column, Failure, read_json_lines, read_parquet, write_json_lines, write_parquet

COLUMNS = {"photo": Column(str), "box": Column(float, 2)}


def test_parquet_round_trips_exactly_and_reproducibly(tmp_path: Path) -> None:
    columns = {"photo": ["a/ü.jpg", "b\n.jpg"], "box": [np.array([0.1, 2], np.float32), np.array([3, 4], np.float32)]}
    write_parquet(tmp_path / "1", columns)
    write_parquet(tmp_path / "2", columns)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    table = read_parquet(tmp_path / "1", COLUMNS)
    assert table["photo"] == columns["photo"] and np.float32(table["box"][0][0]) == np.float32(0.1)
    assert pq.read_table(tmp_path / "1").num_rows == 2


def test_empty_parquet_files_keep_their_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t", {"photo": [], "box": []})
    assert read_parquet(tmp_path / "t", COLUMNS) == {"photo": [], "box": []}


def test_many_rows_are_read_in_order(tmp_path: Path) -> None:
    names = [f"photo {index}" for index in range(2000)]
    pq.write_table(pa.table({"photo": names, "more": names}), tmp_path / "t", row_group_size=700)
    assert read_parquet(tmp_path / "t", {"photo": Column(str)}) == {"photo": names}


FLOATS = pa.list_(pa.float32())
WRONG: dict[str, tuple[Any, Column]] = {
    "numbers for text": ([1, 2], Column(str)),
    "bytes for text": ([b"a", b"b"], Column(str)),
    "text for numbers": (["1", "2"], Column(int)),
    "fractions for integers": ([1.5, 2.5], Column(int)),
    "truth for integers": ([True, False], Column(int)),
    "integers for truth": ([0, 1], Column(bool)),
    "a missing text": (["a", None], Column(str)),
    "nothing at all": ([None, None], Column(int)),
    "NaN": ([1.0, float("nan")], Column(float)),
    "infinity": ([1.0, float("inf")], Column(float)),
    "a number for a list": ([1.0, 2.0], Column(float, 2)),
    "a list for a number": ([[1.0], [2.0]], Column(float)),
    "a list that is too short": ([[1.0, 2.0], [1.0]], Column(float, 2)),
    "a list that is too long": ([[1.0, 2.0, 3.0], [1.0, 2.0]], Column(float, 2)),
    "a list with a gap": (pa.array([[1.0, None], [1.0, 2.0]], FLOATS), Column(float, 2)),
    "a list with NaN": ([[1.0, 2.0], [float("nan"), 2.0]], Column(float, 2)),
    "a list of texts": ([["a", "b"], ["c", "d"]], Column(float, 2)),
    "a missing list": (pa.array([[1.0, 2.0], None], FLOATS), Column(float, 2)),
    "a structure": ([{"a": 1}, {"a": 2}], Column(str)),
}


@pytest.mark.parametrize("name", WRONG)
def test_columns_of_another_kind_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    values, column = WRONG[name]
    pq.write_table(pa.table({"x": values}), tmp_path / "t")
    with pytest.raises(ArtefactError, match=r"t: is damaged \(column 'x' is not .*\); delete .* and run again"):
        read_parquet(tmp_path / "t", {"x": column})


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([1, None], Column(int, optional=True)),
        ([None, None], Column(str, optional=True)),
        ([[1.0, 2.0], None], Column(float, 2, optional=True)),
        ([0.5, None], Column(float, optional=True)),
        (["a", "b"], Column(str)),
    ],
)
def test_optional_cells_may_be_empty(values: list[Any], column: Column, tmp_path: Path) -> None:
    write_parquet(tmp_path / "t", {"x": values})
    assert read_parquet(tmp_path / "t", {"x": column}) == {"x": values}


def _valid(folder: Path) -> bytes:
    write_parquet(folder / "valid", {"photo": [f"photo {i}" for i in range(50)], "box": [[1.0, i] for i in range(50)]})
    return (folder / "valid").read_bytes()


def test_damaged_parquet_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    data = _valid(tmp_path)
    damaged = [b"", b"PAR1", b"\0" * len(data), data[: len(data) // 2], data[:-1], b"{}", b"PAR1" * 20, data[::-1]]
    random = np.random.default_rng(0)
    for _ in range(150):  # most of the bytes are metadata
        changed = bytearray(data)
        for index in random.integers(0, len(data), 3):
            changed[index] = random.integers(256)
        damaged.append(bytes(changed))
    refused = 0
    for number, content in enumerate(damaged):
        (tmp_path / "t").write_bytes(content)
        try:
            read_parquet(tmp_path / "t", COLUMNS)
            assert number >= 8
        except ArtefactError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(f"{tmp_path / 't'}: is damaged")
    assert refused > 100


def test_missing_columns_files_and_what_is_no_file_are_named(tmp_path: Path) -> None:
    _valid(tmp_path)
    with pytest.raises(ArtefactError, match="has no column 'crop'"):
        read_parquet(tmp_path / "valid", {"crop": Column(str)})
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtefactError, match=rf"{path}: (is damaged|cannot be read)"):
            read_parquet(path, COLUMNS, remedy="look")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtefactError, match="not a regular file"):
        read_parquet(tmp_path / "pipe", COLUMNS)


BOMB = """
import sys
from pathlib import Path
from sfplus.errors import ArtefactError
from sfplus.io.tables import Column, read_parquet
try:
    read_parquet(Path(sys.argv[1]), {"x": Column(str)})
except ArtefactError as error:
    print(error)
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss may be the parent's
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.slow
def test_a_small_table_of_long_texts_does_not_fill_the_memory(tmp_path: Path) -> None:
    text = pa.array(["a" * 500_000]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), text.dictionary)
    pq.write_table(pa.table({"x": column}), tmp_path / "t", compression="zstd", store_schema=False)
    assert (tmp_path / "t").stat().st_size < 2000
    command, environment = [sys.executable, "-c", BOMB, str(tmp_path / "t")], {"SFPLUS_MAX_TABLE_BYTES": "100000000"}
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    message, megabytes = result.stdout.splitlines()
    assert "more than the limit" in message and "SFPLUS_MAX_TABLE_BYTES" in message and int(megabytes) < 900


def test_incomplete_json_lines_are_ignored(tmp_path: Path) -> None:
    kind = dict[str, Any]
    write_json_lines(tmp_path / "l", [{"a": 1}, {"photo": "x\ud8ff\n"}])
    assert read_json_lines(tmp_path / "l", kind) == [{"a": 1}, {"photo": "x\ud8ff\n"}]
    with (tmp_path / "l").open("a") as file:
        file.write('{"a": 2')
    assert read_json_lines(tmp_path / "l", kind) == [{"a": 1}, {"photo": "x\ud8ff\n"}]
    assert read_json_lines(tmp_path / "none", kind) == []


def test_rows_have_the_declared_type(tmp_path: Path) -> None:
    row = {"photo": "x\ud8ff.jpg", "stage": "align", "reason": "no face", "remedy": ""}
    write_json_lines(tmp_path / "l", [row, row])
    assert read_json_lines(tmp_path / "l", Failure) == [row, row]
    for wrong in (
        row | {"photo": 1}, row | {"stage": None}, {"photo": "x"}, [], "x", 1, None, row | {"reason": ["x"]},
    ):  # fmt: skip
        (tmp_path / "l").write_text(f"{json.dumps(row)}\n{json.dumps(wrong)}\n")
        with pytest.raises(ArtefactError, match=r"l:2: is damaged \(.*\); delete .* and run again"):
            read_json_lines(tmp_path / "l", Failure)


@pytest.mark.parametrize(
    "text", [b"{\n", b"\0" * 9 + b"\n", b"\xff\xfe\n", b'{"a":' + b"[" * 100_000 + b"\n", b"9" * 9999 + b"\n"]
)
def test_lines_that_are_no_json_are_refused_in_one_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(text)
    with pytest.raises(ArtefactError, match="l:1: is damaged"):
        read_json_lines(tmp_path / "l", dict[str, Any])


def test_a_line_break_of_unicode_in_a_name_ends_no_line(tmp_path: Path) -> None:
    row = {"photo": "a\u2028\x0b\x1cb.jpg", "stage": "align", "reason": "", "remedy": ""}
    (tmp_path / "l").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert read_json_lines(tmp_path / "l", Failure) == [row]
    write_json_lines(tmp_path / "l", [row])
    assert read_json_lines(tmp_path / "l", Failure) == [row]
