from __future__ import annotations

from pathlib import Path

import pytest

from sfplus.datasets.shards import list_shards, select_split
from sfplus.errors import DatasetError


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", ".hidden.tar", ".cache/c.tar", "deep/d.tar", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_shards(tmp_path, "*.tar") == [tmp_path / "a.tar", tmp_path / "b.tar"]
    assert list_shards(tmp_path, "**/*.tar") == [tmp_path / "a.tar", tmp_path / "b.tar", tmp_path / "deep" / "d.tar"]


def test_splits_must_be_named_if_there_are_several(tmp_path: Path) -> None:
    test, train = (tmp_path / f"{name}-00000-of-00001.tar" for name in ("test", "train"))
    assert select_split(tmp_path, [test], "") == [test]
    assert select_split(tmp_path, [test, train], "test") == [test]
    with pytest.raises(DatasetError, match="splits test, train; name one with --split"):
        select_split(tmp_path, [test, train], "")
    with pytest.raises(DatasetError, match="splits test, train, none of 'dev'"):
        select_split(tmp_path, [test, train], "dev")


def test_files_without_a_split_are_one_split(tmp_path: Path) -> None:
    shards = [tmp_path / "faces-000000.tar", tmp_path / "faces-000001.tar"]
    assert select_split(tmp_path, shards, "") == shards
    with pytest.raises(DatasetError, match=r"splits \(none\), none of 'train'"):
        select_split(tmp_path, shards, "train")
