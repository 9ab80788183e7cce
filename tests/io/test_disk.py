"""Full and broken disks: one line, whatever library writes, and no error where a system cannot flush."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from PIL import Image

from sfplus.errors import SfplusError
from sfplus.io import disk
from sfplus.io.disk import explain_full_disk, explain_write, flush, flush_folder
from sfplus.training.history import History

VALUES = np.random.default_rng(0).random(100_000)


def _history(path: Path) -> None:
    path.mkdir()
    history = History(path, 0)
    for step in range(1, 3000):
        history.add({"step": step, "loss": 0.5}, {"step": step, "images_per_second": 1.0})


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(VALUES.tobytes()),
    "json": lambda path: json.dump(VALUES.tolist(), path.open("w")),
    "numpy": lambda path: np.save(path.open("wb"), VALUES),
    "numpy archive": lambda path: np.savez(path, a=VALUES),
    "safetensors": lambda path: safetensors.numpy.save_file({"a": VALUES}, path),
    "pyarrow": lambda path: pq.write_table(pa.table({"a": VALUES}), path),
    "torch": lambda path: torch.save(torch.from_numpy(VALUES), path),
    "torch, old format": lambda path: torch.save(VALUES, path, _use_new_zipfile_serialization=False),
    "history and tensorboard": _history,
    "pillow": lambda path: Image.fromarray(VALUES.view(np.uint8).reshape(800, 1000)).save(path, "PNG"),
}
_WRITE = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from test_disk import WRITERS
from sfplus.errors import SfplusError
from sfplus.io.disk import explain_full_disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name, write in WRITERS.items():
    try:
        with explain_full_disk(Path("out")):
            write(Path(sys.argv[2]) / name.replace(" ", "_"))
        print(f"{name}: no error")
    except SfplusError as error:
        print(f"{name}: {error}")
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_one_line_whatever_library_writes(tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk; libraries report both alike."""
    command = [sys.executable, "-W", "ignore", "-c", _WRITE, str(Path(__file__).parent), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines.keys() == WRITERS.keys(), result.stderr
    assert not [line for line in lines.values() if not line.startswith("out: cannot be written: ")], lines
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr, result.stderr


FAULTS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device; free some space"),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "free some space"),
    (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "File too large; use a disk and limits that allow larger files"),
    (safetensors.SafetensorError("I/O error: No space left on device (os error 28)"), "No space left .*; free some"),
    (OSError("1000000 requested and 262128 written"), "No space left on device; free some space"),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "free some space"),
    (sqlite3.OperationalError("database or disk is full"), "No space left on device; free some space"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_every_way_to_report_a_full_disk_is_known(fault: Exception, message: str) -> None:
    with pytest.raises(SfplusError, match=f"out: cannot be written: .*{message}"), explain_full_disk(Path("out")):
        raise fault


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.EIO, "Input/output error"), ValueError("x"), KeyboardInterrupt(), OSError("time-out"),
     SfplusError("x"), safetensors.SafetensorError("No such file or directory (os error 2)"), RuntimeError("28")],
)  # fmt: skip
def test_other_errors_pass(fault: BaseException) -> None:
    with pytest.raises(type(fault)) as caught, explain_full_disk(Path("out")):
        raise fault
    assert caught.value is fault


def test_errors_of_the_system_are_explained_where_a_file_is_written() -> None:
    with pytest.raises(SfplusError, match="cannot be written: Input/output error; check"), explain_write(Path("out")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(TimeoutError), explain_write(Path("out")):
        raise TimeoutError("of a lock")


def test_files_and_folders_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x", "a/x", "a/b/x"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "none")
    flushed: set[Path] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink()))
    flush_folder(tmp_path)
    assert flushed == {tmp_path / name for name in ("", "x", "a", "a/x", "a/b", "a/b/x")}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS])
def test_a_disk_that_cannot_flush_is_no_error(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    flush(tmp_path)


def test_windows_cannot_flush_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk.os, "open", refuse)
    flush(tmp_path)


def test_a_flush_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        flush(tmp_path)
