"""The index of earlier results: shared, and never in the way."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from sfplus.artifacts.result_index import ResultIndex


def test_results_are_found_by_key(tmp_path: Path) -> None:
    index = ResultIndex(tmp_path / "new" / "x.sqlite")
    assert index.get(["a"]) == {}
    index.put((f"{number}", f"result {number}") for number in range(2000))
    index.put([("7", "changed")])
    results = ResultIndex(tmp_path / "new" / "x.sqlite").get([*map(str, range(1500)), "unknown"])
    assert len(results) == 1500 and results["7"] == "changed" and results["1499"] == "result 1499"


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ResultIndex(tmp_path / "x").put([(str(n), "y")] * 3), range(40)))
    assert len(ResultIndex(tmp_path / "x").get([str(n) for n in range(40)])) == 40


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_counts_as_empty_and_is_started_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "x-journal").write_bytes(b"\xd9\xd5\x05\xf9 of a run that was killed")
    index = ResultIndex(tmp_path / "x")
    with pytest.warns(UserWarning, match=r"x: is damaged \(.*\); what it remembers is") if content else nullcontext():
        assert index.get(["a"]) == {}
    index.put([("a", "b")])
    index.put([("a", "b")])
    assert index.get(["a"]) == {"a": "b"}


def test_an_interrupted_put_stores_nothing(tmp_path: Path) -> None:
    def results():
        yield "a", "b"
        raise KeyboardInterrupt

    index = ResultIndex(tmp_path / "x")
    index.put([("z", "z")])
    with pytest.raises(KeyboardInterrupt):
        index.put(results())
    assert index.get(["a", "z"]) == {"z": "z"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_without_permission_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ResultIndex(tmp_path / "x").put([("a", "b")])
    assert ResultIndex(tmp_path / "x").get(["a"]) == {}


def test_no_result_is_returned_that_damage_has_changed(tmp_path: Path) -> None:
    index, keys = ResultIndex(tmp_path / "x"), [f"key {number}" for number in range(200)]
    expected = {key: f"the result of {key}" * 9 for key in keys}
    index.put(expected.items())
    data = (tmp_path / "x").read_bytes()
    random = np.random.default_rng(0)
    with warnings.catch_warnings(action="ignore"):
        for case in range(60):
            start = int(random.integers(len(data)))
            length = int(random.integers(1, 5000))
            kinds = (bytes(length), random.bytes(length), b"")
            (tmp_path / "x").write_bytes(data[:start] + kinds[case % 3] + data[start + length :])
            assert index.get(keys).items() <= expected.items()


def test_results_of_earlier_versions_have_no_digest_and_do_not_count(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x")) as database, database:
        database.execute("CREATE TABLE results (key TEXT PRIMARY KEY, result TEXT) WITHOUT ROWID")
        database.execute("INSERT INTO results VALUES ('a', 'b')")
    index = ResultIndex(tmp_path / "x")
    assert index.get(["a"]) == {}
    index.put([("a", "c")])
    assert index.get(["a"]) == {"a": "c"}
