"""The number of CPUs that a process may use, and of threads that decode photos on them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MAX_THREADS = 16  # each holds a photo while it decodes it


def count_cpus() -> int:
    """Return the number of CPUs that this process may use: its affinity, or the quota of its container if less.

    Processes that a launcher started together on this machine (`LOCAL_WORLD_SIZE`) share them equally.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, math.ceil(min([available, *_quotas()])) // max(1, processes))


def count_decoders(gpu: bool) -> int:
    """Return the number of threads that decode photos: every CPU for a GPU, up to 16; else an eighth, at least 2.

    On a CPU, detection takes at least ten times as long as decoding.
    """
    cpus = count_cpus()
    return min(_MAX_THREADS, max(2, cpus if gpu else cpus // 8))


def _quotas() -> Iterator[float]:
    """Yield the quotas of the control groups of this process, in CPUs (Linux: cgroup v2, or v1 of a container)."""
    try:
        path = next(line[3:] for line in _OWN_CGROUPS.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        path = "/"
    group = _CGROUPS / path.lstrip("/")
    for folder in (group, *group.parents):
        yield from _quota(folder / "cpu.max")
    version_1 = _CGROUPS / "cpu"
    yield from _quota(version_1 / "cpu.cfs_quota_us", version_1 / "cpu.cfs_period_us")


def _quota(*paths: Path) -> Iterator[float]:
    try:
        quota, period = map(float, " ".join(path.read_text() for path in paths).split())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return
    if quota > 0 and period > 0:
        yield quota / period
