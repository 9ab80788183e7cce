"""Locks between processes, on disks with and without a lock service."""

import errno
import fcntl
import os
import subprocess
import sys
import warnings
from pathlib import Path

import filelock
import pytest

from sfplus.io import locks
from sfplus.io.locks import file_lock

_HOLD = """
import errno, fcntl, os, sys, time
from pathlib import Path
from sfplus.io.locks import file_lock
def flock(*_):
    raise OSError(int(sys.argv[2]), os.strerror(int(sys.argv[2])))
if int(sys.argv[2]):
    fcntl.flock = flock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
_NUMBERS = [0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]


def _without_service(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", _NUMBERS)
@pytest.mark.filterwarnings("ignore:.*no lock service")
def test_a_lock_excludes_other_processes_until_its_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _without_service(monkeypatch, number)
    path = tmp_path / "a.lock"
    command = [sys.executable, "-W", "ignore", "-c", _HOLD, str(path), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        with pytest.raises(filelock.Timeout), file_lock(path).acquire(timeout=0):
            pass
        process.kill()
    with file_lock(path).acquire(timeout=5):
        assert path.exists()
    with file_lock(path).acquire(timeout=0):
        pass
    assert {file.name for file in tmp_path.iterdir()} <= {"a.lock"}


@pytest.mark.parametrize("number", _NUMBERS[1:])
def test_a_disk_without_a_lock_service_is_mentioned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _without_service(monkeypatch, number)
    with pytest.warns(UserWarning, match="no lock service .*; if a process on another machine is killed, delete"):
        file_lock(tmp_path / "a.lock")
    with warnings.catch_warnings(action="error"):
        file_lock(tmp_path / "b.lock")


def test_errors_are_those_of_the_lock_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), file_lock(tmp_path / "file" / "a.lock"):
        pass
    with file_lock(tmp_path / "new" / "a.lock"):
        assert locks._has_service(str(tmp_path))
