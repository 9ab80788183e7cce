from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfplus.io import cpus
from sfplus.io.cpus import count_cpus, count_decoders


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 12 CPUs for this process, whose control groups are files of the test."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(cpus, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return tmp_path


CASES: dict[str, tuple[dict[str, str], int]] = {
    "no control groups": ({}, 12),
    "no limit": ({"cpu.max": "max 100000", "own": "0::/"}, 12),
    "container": ({"cpu.max": "300000 100000", "own": "0::/"}, 3),
    "part of a CPU": ({"cpu.max": "250000 100000"}, 3),
    "less than one CPU": ({"cpu.max": "50000 100000"}, 1),
    "own group": ({"a/b/cpu.max": "200000 100000", "own": "0::/a/b\n"}, 2),
    "group above": ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000", "own": "12:cpu:/x\n0::/a/b\n"}, 4),
    "other group": ({"c/cpu.max": "100000 100000", "own": "0::/a\n"}, 12),
    "version 1": ({"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
    "version 1, no limit": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 12),
    "more than there are": ({"cpu.max": "9900000 100000"}, 12),
    "damaged": ({"cpu.max": "many"}, 12),
    "zero": ({"cpu.max": "0 0"}, 12),
}


@pytest.mark.parametrize("case", CASES)
def test_the_quota_of_a_container_limits_the_cpus(machine: Path, case: str) -> None:
    files, expected = CASES[case]
    for name, text in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)
    assert count_cpus() == expected


def test_processes_of_a_launcher_share_the_cpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for processes, expected in (("1", 12), ("4", 3), ("5", 2), ("40", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert count_cpus() == expected


@pytest.mark.parametrize(("count", "gpu", "cpu"), [(1, 2, 2), (4, 4, 2), (12, 12, 2), (32, 16, 4), (256, 16, 16)])
def test_threads_that_decode_follow_the_machine(
    monkeypatch: pytest.MonkeyPatch, count: int, gpu: int, cpu: int
) -> None:
    monkeypatch.setattr(cpus, "count_cpus", lambda: count)
    assert (count_decoders(True), count_decoders(False)) == (gpu, cpu)


def test_the_cpus_of_this_machine_are_counted() -> None:
    assert 1 <= count_cpus() <= (os.cpu_count() or 1)
