"""Measure the run after one new photo: `sfplus embed FOLDER OUT` on a folder, and again after each of three photos.

Photos: copies of those in SFPLUS_SHARED_DATA/lfw/photos if that is set, else drawn ones, all 250x250. The commands run
in processes of their own, so the time that Python and torch need to start counts as well. Seconds on the clock, which
include the waiting for the disk, and seconds of the processor, which do not; a run without a new photo shows what is
left with nothing to do. The environment variables PHOTOS and ROOT change the number of photos and the folder.

Run it on an idle machine: make bench
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos

PHOTOS, NEW = int(os.environ.get("PHOTOS", 10_000)), 3
WAIT = 40  # seconds before a run: ext4 passes over the inodes of files that were deleted in the last half minute


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("ROOT")) as name:
        root = Path(name)
        count, new = write_photos(root)
        os.environ |= {"SFPLUS_HOME": str(root / "home"), "PYTHONPYCACHEPREFIX": str(root / "compiled")}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed sfplus is compiled once, not in each run
        first = embed(root)
        again = []
        for photo in new:
            time.sleep(WAIT)
            shutil.move(photo, root / "photos" / "new person" / photo.name)
            again.append(embed(root))
        unchanged = [embed(root) for _ in range(NEW)]
    print(f"sfplus embed, {count} photos: seconds on the clock, and of the processor")
    report("first run", first, first)
    report("after one new photo", middle(again), first)
    report("without a new photo", middle(unchanged), first)


def write_photos(root: Path) -> tuple[int, list[Path]]:
    """Write the photos; return their number, and those that are added later."""
    source = Path(os.environ.get("SFPLUS_SHARED_DATA", "")) / "lfw" / "photos"
    if not source.is_dir():
        source = root / "drawn"
        write_portraits(source, -(-(PHOTOS + NEW) // 10), 10, 0)
    names = list_photos(source)[: PHOTOS + NEW]
    new = [root / f"{number}{Path(name).suffix}" for number, name in enumerate(names[-NEW:])]
    for name, path in zip(names, [*(root / "photos" / name for name in names[:-NEW]), *new], strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path)
    (root / "photos" / "new person").mkdir()
    return len(names) - NEW, new


def embed(root: Path) -> tuple[float, float]:
    """Run the command; return the seconds on the clock and of the processor."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "sfplus", "embed", str(root / "photos"), str(root / "out")]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - clock, used


def middle(runs: list[tuple[float, float]]) -> tuple[float, float]:
    return median(clock for clock, _ in runs), median(used for _, used in runs)


def report(name: str, run: tuple[float, float], first: tuple[float, float]) -> None:
    ratios = " ".join(f"{seconds:8.2f} s {seconds / whole:6.1%}" for seconds, whole in zip(run, first, strict=True))
    print(f"  {name:<22} {ratios}")


if __name__ == "__main__":
    main()
