from __future__ import annotations

from pathlib import Path

import pytest

from sfplus.datasets.pairs import text as module
from sfplus.datasets.pairs.text import read_lines
from sfplus.errors import PairsError


def test_lines_have_fields_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes("\ufeffa b\tc\r\n\r\nd,e f\n \n\n".encode())
    lines = read_lines(path, "\t,")
    assert [line.fields for line in lines] == [["a b", "c"], [], ["d", "e f"]]
    assert [line.where for line in lines] == [f"{path}:{number}" for number in (1, 2, 3)]
    assert lines[2].text == "d,e f"


def test_too_large_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 3)
    (tmp_path / "pairs.txt").write_text("abcd")
    with pytest.raises(PairsError, match="is larger than 0 MiB"):
        read_lines(tmp_path / "pairs.txt")
