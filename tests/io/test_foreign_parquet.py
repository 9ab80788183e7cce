"""Parquet of others: what it takes in memory is known before it is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_files import damaged, not_utf8, read_or_refuse
from slow_cases import partly_slow

from sfplus.errors import DatasetError
from sfplus.io.foreign_parquet import read_table

MANY = 18_000_000
BOMBS = {
    "no values": {"name": pa.nulls(MANY, pa.string()), "x": pa.nulls(MANY, pa.float32())},
    "one number": {"x": np.zeros(MANY)},
    "one list": {
        "name": ["a"],
        "features": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(MANY, np.float32)), MANY),
    },
    "one long text": {"name": pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["a" * 1_000_000])},
}


def read(path: Path) -> pa.Table:
    return read_table(path, remedy="get it again", error=DatasetError)


@pytest.mark.parametrize("kind", partly_slow(BOMBS, ["one list"]))
def test_small_files_of_many_values_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(BOMBS[kind]), path, compression="zstd")
    assert path.stat().st_size < 400_000
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match=r"bytes expand to .*, more than 30 times their size; .*EXPANSION="):
        read(path)
    assert pa.total_allocated_bytes() - before < 20 << 20


def test_values_are_read_as_they_were_written(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    names = [f"a/{number % 50}" for number in range(300)]
    columns = {"name": names, "kind": pa.array(names).dictionary_encode(), "features": list(features), "n": range(300)}
    table = pa.table({name: pa.array(values) for name, values in columns.items()} | {"skipped": [b"a"] * 300})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    result = read(tmp_path / "a.parquet")
    assert result.column_names == ["name", "kind", "features", "n"] and result["n"].to_pylist() == list(range(300))
    assert result["name"].to_pylist() == result["kind"].to_pylist() == names
    assert np.array_equal(np.stack(result["features"].to_pylist()), features)
    chosen = read_table(tmp_path / "a.parquet", ["n"], remedy="get it again", error=DatasetError)
    assert chosen.column_names == ["n"]
    for missing in ("skipped", "other"):
        with pytest.raises(DatasetError, match=f"has no column '{missing}' of texts or numbers"):
            read_table(tmp_path / "a.parquet", [missing], remedy="get it again", error=DatasetError)


@pytest.mark.slow
def test_damage_is_one_line_and_never_ends_the_process(tmp_path: Path) -> None:
    path, refused = tmp_path / "a.parquet", 0
    for number, compression in enumerate(("none", "zstd")):
        pq.write_table(pa.table({"name": ["a", "b"] * 9, "features": [[1.0, 2.0]] * 18}), path, compression=compression)
        for data in damaged(path.read_bytes(), 200, 40, number):
            path.write_bytes(data)
            refused += read_or_refuse(lambda: read(path))
    assert refused > 200


def test_what_is_no_file_of_texts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "is a directory|not a regular|Is a directory"),
                         (tmp_path / "pipe", "not a regular file")):  # fmt: skip
        with pytest.raises(DatasetError, match=reason):
            read(path)
    pq.write_table(pa.table({"name": not_utf8(3)}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="is damaged"):
        read(tmp_path / "a.parquet")
    monkeypatch.setenv("SFPLUS_MAX_TABLE_COLUMNS", "1")
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="has 2 columns, more than the limit of 1"):
        read(tmp_path / "a.parquet")
