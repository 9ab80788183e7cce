"""Files and folders that are written completely or not at all."""

import errno
import os
import signal
from pathlib import Path

import pytest

from sfplus.datasets.identities import read_person_list
from sfplus.datasets.pairs import read_pairs
from sfplus.errors import SfplusError, UsageError
from sfplus.io.files import (
    atomic_file,
    atomic_folder,
    file_digest,
    remove_folder,
    walk_files,
    write_atomically,
    write_json,
    write_or_remove,
)
from sfplus.verification.features import FEATURE_SUFFIXES, read_features


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    longest = tmp_path / ("n" * 251 + ".jpg")  # 255 bytes: no suffix can be appended
    for contents in (b"one", b"second"):
        write_atomically(longest, contents)
        assert longest.read_bytes() == contents
    assert list(tmp_path.iterdir()) == [longest]


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "reference").write_bytes(b"")
    write_atomically(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "reference").stat().st_mode


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written"), (errno.EIO, "check")]
)
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    path = tmp_path / "a.jpg"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(SfplusError, match=remedy) as failure:
        write_atomically(path, b"new")
    assert failure.value.where == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    assert path.read_bytes() == b"old"


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.jpg", b"new")
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (("gone/a.jpg", "make the folder"), ("n" * 300, "shorter name"), ("folder.jpg", "directory")):
        with pytest.raises(SfplusError, match=reason):
            write_atomically(tmp_path / name, b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.jpg"]


@pytest.mark.parametrize("sync", [False, True])
def test_an_atomic_file_appears_at_the_end_of_the_block(tmp_path: Path, sync: bool) -> None:
    with atomic_file(tmp_path / "a", sync=sync) as part:
        part.write_text("1")
        assert not (tmp_path / "a").exists() and part.match(".*.part")
    assert (tmp_path / "a").read_text() == "1" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_atomic_file_is_not_written_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a") as part:
        part.write_text("1")
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_json_is_written_with_the_options_of_dumps(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]}, sync=True, indent=1, sort_keys=True)
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}'


def test_an_atomic_folder_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a/b") as part:
        (part / "x").write_text("1")
        assert not (tmp_path / "a/b").exists()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "x"]
    with pytest.raises(UsageError, match="already exists"), atomic_folder(tmp_path / "a/b"):
        pass


def test_an_atomic_folder_is_not_created_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as part:
        (part / "x").write_text("1")
        _ = 1 / 0
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: is not a folder"), atomic_folder(tmp_path / "file/b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_atomic_folder_replaces_an_existing_one_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a", replace=True):
        _ = 1 / 0
    assert (tmp_path / "a" / "old").exists()
    with atomic_folder(tmp_path / "a", replace=True) as part:
        (part / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_a_folder_is_removed_and_links_out_of_it_are_not_followed(tmp_path: Path) -> None:
    for name in ("in/x", "in/a/x", "in/a/b/c/d/x", "in/a/e/x", "out/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("in/link", "in/a/link", "in/a/b/link"):
        (tmp_path / name).symlink_to(tmp_path / "out")
    for _ in range(2):  # a missing folder is no error
        remove_folder(tmp_path / "in")
        assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/x").is_file()


def test_writing_none_removes_the_file(tmp_path: Path) -> None:
    write_or_remove(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    for _ in range(2):
        write_or_remove(tmp_path / "x", None)
        assert not (tmp_path / "x").exists()


def test_walked_files_are_sorted_and_relative(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png", "a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(walk_files(tmp_path)) == ["a/1.png", "a/2.png", "b/1.png"]


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


READERS = {
    "x": file_digest, "pairs.txt": read_pairs, "pairs.csv": read_pairs, "set.bin": read_pairs,
    "people.txt": read_person_list, **dict.fromkeys((f"x{suffix}" for suffix in FEATURE_SUFFIXES), read_features),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_pipes_and_devices_are_refused_by_all_readers(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    signal.alarm(60)  # a pipe that is opened waits for ever
    with pytest.raises((OSError, SfplusError), match="not a regular file"):
        READERS[name](tmp_path / name)
    signal.alarm(0)
