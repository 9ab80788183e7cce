"""`sfplus sample` draws portraits, and leaves folders with other files alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., object]


def test_the_same_command_can_be_repeated(tmp_path: Path, sfplus: Command) -> None:
    for _ in range(2):
        assert sfplus("sample", tmp_path / "out", "--people", "2", "--photos", "1").code == 0
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"landmarks.csv", "person_000/person_000_0001.jpg", "person_001/person_001_0001.jpg"}


@pytest.mark.parametrize("name", [".sfplus/published.json", "failures.jsonl", "anna/1.jpg"])
def test_a_folder_with_other_files_is_refused(name: str, tmp_path: Path, sfplus: Command) -> None:
    """Such as crops of `align`, which have the same names as the portraits that they were cut from."""
    crop = tmp_path / "out/person_000/person_000_0001.jpg"
    for file in (crop, tmp_path / "out" / name):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    answer = sfplus("sample", tmp_path / "out", "--people", "1", "--photos", "1")
    assert answer.code == 2 and "contains other files; choose a new or an empty folder as OUT" in answer.err
    assert crop.read_bytes() == b"x"
