"""What is written whole or not at all."""

from pathlib import Path

import pytest

from sfplus.errors import UsageError
from sfplus.io.files import atomic_folder, write_or_remove


def test_a_new_folder_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a/b") as part:
        (part / "x").write_text("1")
        assert not (tmp_path / "a/b").exists()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "x"]
    with pytest.raises(UsageError, match="already exists"), atomic_folder(tmp_path / "a/b"):
        pass


def test_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as part:
        (part / "x").write_text("1")
        _ = 1 / 0
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: is not a folder"), atomic_folder(tmp_path / "file/b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_bytes_there_is_no_file(tmp_path: Path) -> None:
    write_or_remove(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    for _ in range(2):
        write_or_remove(tmp_path / "x", None)
        assert not (tmp_path / "x").exists()
