from __future__ import annotations

from pathlib import Path

import pytest

from sfplus.datasets.pairs.text import read_lines
from sfplus.errors import PairsError


def test_lines_have_fields_and_numbers_without_blank_lines_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes('\ufeffa b\tc\r\n\r\n # note\r\nd, "e, f" ,g\n \n\n'.encode())
    lines = read_lines(path)
    assert lines[0].fields("\t") == ["a b", "c"] and lines[0].fields(" ") == ["a", "b", "c"]
    assert lines[1].fields(",") == ["d", "e, f", "g"] and lines[1].text == 'd, "e, f" ,g'
    assert [line.where for line in lines] == [f"{path}:{number}" for number in (1, 4)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "x").write_bytes(end.join(["Zoë", "Ada", "José"]).encode(encoding))
    assert [line.text for line in read_lines(tmp_path / "x")] == ["Zoë", "Ada", "José"]
    (tmp_path / "x").write_bytes("Œuvre\nAda".encode("cp1252"))
    assert read_lines(tmp_path / "x")[0].text == "Œuvre"


def test_too_large_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_MAX_TEXT_BYTES", "3")
    (tmp_path / "pairs.txt").write_text("abcd")
    with pytest.raises(PairsError, match=r"pairs\.txt: has 4 bytes, more than the limit of 3"):
        read_lines(tmp_path / "pairs.txt")
