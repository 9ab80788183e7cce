"""Temporary files are deleted when the process that wrote them has ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.io import leftovers
from sfplus.io.files import atomic_file, atomic_folder, write_atomically
from sfplus.io.leftovers import remove_leftovers, temporary_path

_DAY = 24 * 3600
_WRITE = """
import sys, time
from pathlib import Path
from sfplus.io.files import atomic_file, atomic_folder
atomic = atomic_folder if sys.argv[2] == "folder" else atomic_file
with atomic(Path(sys.argv[1])) as part:
    (part / "x" if sys.argv[2] == "folder" else part).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not cleared any folder."""
    monkeypatch.setattr(leftovers, "_cleared", set())


def _writer(target: Path, kind: str) -> subprocess.Popen[bytes]:
    """Return a process that is in the middle of writing a file or folder."""
    process = subprocess.Popen([sys.executable, "-c", _WRITE, str(target), kind], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"writing\n"
    return process


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_temporary_file_stays_while_its_process_lives(tmp_path: Path, kind: str) -> None:
    with _writer(tmp_path / "target", kind) as process:
        try:
            remove_leftovers(tmp_path)
            write_atomically(tmp_path / "a", b"")
            assert len(_names(tmp_path)) == 2
        finally:
            process.kill()
            leftovers._cleared.clear()
        (status,) = [process.wait()]
    assert status == -signal.SIGKILL
    write_atomically(tmp_path / "a", b"")
    assert _names(tmp_path) == ["a"]


def test_a_process_that_nobody_waits_for_has_ended(tmp_path: Path) -> None:
    with _writer(tmp_path / "target", "file") as process:
        process.kill()
        while leftovers._start_time(process.pid):
            time.sleep(0.01)
        remove_leftovers(tmp_path)
        assert not _names(tmp_path)


def _of_this_process(folder: Path) -> str:
    return temporary_path(folder / "a").name


def _with(part: int, text: str) -> Callable[[Path], str]:
    """Return a maker of names like those of this process, with another machine (0), id (1) or start (2)."""

    def name(folder: Path) -> str:
        parts = _of_this_process(folder).split("-")
        parts[part] = text
        return "-".join(parts)

    return name


@pytest.mark.parametrize(
    ("name", "age", "is_deleted"),
    [
        (_of_this_process, 2 * _DAY, False),
        (_with(1, "1"), 0, True),  # another process had this id
        (_with(1, "999999999"), 0, True),
        (_with(2, "1"), 0, True),
        (_with(0, ".00000000"), 0, False),
        (_with(0, ".00000000"), _DAY - 60, False),
        (_with(0, ".00000000"), _DAY + 60, True),
        (_with(0, ".00000000"), -_DAY, False),  # a clock that was wrong
        (lambda _: ".0123456789abcdef.part", 0, False),  # of earlier versions
        (lambda _: ".0123456789abcdef.part", _DAY + 60, True),
        (lambda _: ".0.part", 2 * _DAY, False),  # of other programs
        (lambda _: ".movie.mkv.part", 2 * _DAY, False),
        (lambda _: "0123456789abcdef.part", 2 * _DAY, False),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_a_leftover(
    tmp_path: Path, name: Callable[[Path], str], age: float, is_deleted: bool, kind: str
) -> None:
    path = tmp_path / "a" / name(tmp_path)
    path.parent.mkdir()
    (tmp_path / "kept").mkdir()
    if kind == "file":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "kept")
    os.utime(path, (time.time() - age,) * 2, follow_symlinks=False)
    remove_leftovers(tmp_path)
    assert path.is_symlink() or path.exists() if not is_deleted else not path.is_symlink() and not path.exists()
    assert (tmp_path / "kept").is_dir()
    remove_leftovers(tmp_path, locked=True)
    assert (path.is_symlink() or path.exists()) == (leftovers._NAME.fullmatch(path.name) is None)


def test_the_first_temporary_file_clears_its_folder_alone(tmp_path: Path) -> None:
    name = _with(2, "1")(tmp_path)
    for folder in ("a", "a/b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    with atomic_folder(tmp_path / "a/new") as part, atomic_file(tmp_path / "c/new") as file:
        assert _names(tmp_path / "a") == sorted(["b", part.name])
        assert not _names(tmp_path / "c")
        file.touch()
    assert _names(tmp_path / "a") == ["b", "new"] and _names(tmp_path / "c") == ["new"]
    assert _names(tmp_path / "a/b") == [name]


def test_a_fork_owns_its_temporary_files(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        (tmp_path / temporary_path(tmp_path / "a").name).touch()
        os._exit(0)
    os.waitpid(child, 0)
    assert str(child) in _names(tmp_path)[0]
    remove_leftovers(tmp_path)
    assert not _names(tmp_path)


def test_a_process_of_another_user_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(leftovers, "_start_time", lambda _: None)  # hidden from this user
    assert leftovers._is_alive(os.getpid(), "1")
