from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sfplus.io.tables import read_json_lines, read_parquet, write_json_lines, write_parquet


def test_parquet_round_trips_exactly_and_reproducibly(tmp_path: Path) -> None:
    columns = {"photo": ["a/ü.jpg", "b\n.jpg"], "box": [np.array([0.1, 2], np.float32), np.array([3, 4], np.float32)]}
    write_parquet(tmp_path / "1", columns)
    write_parquet(tmp_path / "2", columns)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    table = read_parquet(tmp_path / "1")
    assert table["photo"] == columns["photo"] and np.float32(table["box"][0][0]) == np.float32(0.1)
    assert pq.read_table(tmp_path / "1").num_rows == 2


def test_empty_parquet_files_keep_their_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t", {"photo": [], "box": []})
    assert read_parquet(tmp_path / "t") == {"photo": [], "box": []}


def test_incomplete_json_lines_are_ignored(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "l", [{"a": 1}, {"photo": "x\ud8ff\n"}])
    assert read_json_lines(tmp_path / "l") == [{"a": 1}, {"photo": "x\ud8ff\n"}]
    with (tmp_path / "l").open("a") as file:
        file.write('{"a": 2')
    assert read_json_lines(tmp_path / "l") == [{"a": 1}, {"photo": "x\ud8ff\n"}]
    assert read_json_lines(tmp_path / "none") == []
