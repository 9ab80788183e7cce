"""A full disk, a limit on the size of files, and errors of the disk in every command that writes."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_cases import SLOW, cases, is_one_line
from fault_runs import FaultRuns

NAMES = sorted(set(cases(Path(), "")) - {"convert to onnx"})  # takes the longest, and writes as `convert` does
FAULTS = 46
ERRORS = {"EDQUOT": errno.EDQUOT, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS}


def random_faults() -> list[tuple[str, str, float]]:
    """Return case, kind and fraction of each fault: a full disk for every case, and other faults for some."""
    rng = random.Random(17)
    faults = [(name, "full disk", round(rng.random(), 2)) for name in NAMES]
    more = rng.sample(sorted(set(NAMES) - SLOW), FAULTS - len(NAMES))
    return sorted([*faults, *((name, rng.choice(["long file", *ERRORS]), round(rng.random(), 2)) for name in more)])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "fraction"), random_faults())
def test_a_fault_of_the_disk_is_one_line_and_the_same_command_ends_with_the_same_files_after_it(
    runs: FaultRuns, name: str, kind: str, fraction: float
) -> None:
    case = runs.cases[name]
    expected = runs.undisturbed(case)
    with disk(runs.folder) as has_disk:
        runs.prepare(case)
        if kind == "long file":
            answer = runs.run(case, bytes=int(fraction * expected.size), errno=errno.EFBIG)
        elif kind == "full disk" and has_disk:
            resize(runs.folder, int(fraction * expected.total))
            answer = runs.run(case)
            resize(runs.folder, 1 << 30)
        else:
            number = max(1, round(fraction * expected.changes))
            answer = runs.run(case, change=number, errno=ERRORS.get(kind, errno.ENOSPC))
        if answer.code:
            assert answer.code == 1 and (is_one_line(answer.err) or name == "sweep"), answer  # a warning for each run
            assert "Traceback" not in answer.err
            answer = runs.run(case)
        assert answer.code == 0, answer.err
        assert runs.compare(case) == []


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """Make a folder a disk of its own in memory during the block, where that is allowed; yield whether it is."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, free: int) -> None:
    """Give a disk in memory this many free bytes, rounded up to pages."""
    status = os.statvfs(folder)
    used = status.f_blocks - status.f_bfree + 1
    size = used * status.f_bsize + free
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
