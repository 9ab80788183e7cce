"""Locks between processes, also on disks without a lock service."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from sfplus.io import locks
from sfplus.io.locks import file_lock, is_held

NO_SERVICE = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL]
HOLD = "import sys; from pathlib import Path; from sfplus.io import locks; locks._services.update(eval(sys.argv[2]));"
HOLD += "k = locks.file_lock(Path(sys.argv[1])); k.acquire(); print(1, flush=True); sys.stdin.read()"


@pytest.fixture(params=[None, *NO_SERVICE])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a disk with locks (None), or on one where `flock` fails."""
    monkeypatch.setattr(locks, "_services", {})
    if request.param:

        def fail(*_: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", fail)
    return tmp_path


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that holds a lock."""
    services = repr(locks._services)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), services], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_lock_is_held_by_one_and_ends_with_its_process(folder: Path) -> None:
    path = folder / "a.lock"
    assert not is_held(path) and not list(folder.iterdir())
    with file_lock(path):
        assert is_held(path)
    assert not is_held(path)
    with hold(path) as process:
        assert is_held(path)
        with pytest.raises(filelock.Timeout):
            file_lock(path).acquire(timeout=0)
        process.kill()
    assert not is_held(path)


def test_locks_are_listed_by_their_suffix(folder: Path) -> None:
    with file_lock(folder / "a.lock"):
        (path,) = folder.glob("*.lock")
        assert is_held(path)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [errno.ENOLCK], indirect=True)
@pytest.mark.parametrize(
    ("marker", "holder"),
    [(b"12\nanother-computer\n", "process 12 on another-computer"), (b"\0" * 30, "process"), (b"", "another process")],
)
def test_who_waits_for_a_marker_of_another_computer_is_told_at_once(folder: Path, marker: bytes, holder: str) -> None:
    path = folder / "a.held.lock"
    path.write_bytes(marker)
    timer = threading.Timer(0.5, path.unlink)
    with pytest.warns(UserWarning, match=rf"a\.held\.lock: waits for .*{holder}.*delete this file"):
        timer.start()
        with file_lock(folder / "a.lock"):
            assert is_held(folder / "a.lock")


def test_errors_are_those_of_the_lock_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), file_lock(tmp_path / "file" / "a.lock"):
        pass
