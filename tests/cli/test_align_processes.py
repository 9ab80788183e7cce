"""`sfplus align` in several processes writes the same files as in one, also if some of them are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from sfplus.datasets.portraits import write_portraits

# Runs sfplus and logs the number of photos that it detects; waits until all processes have started.
_COUNTING = """
import sys, time
from pathlib import Path
from sfplus.detection.mtcnn import Detector
from sfplus.__main__ import main
path, processes = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
log, detect = path.open("a", buffering=1), Detector.detect
def logged(self, photos):
    while len(list(path.parent.glob("log*"))) < processes:
        time.sleep(0.01)
    print(len(photos), file=log)
    return detect(self, photos)
Detector.detect = logged
main()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 drawn photos; 5 with names of numbered crops, 2 of them copies; a damaged file and one without a face."""
    root = tmp_path_factory.mktemp("shared") / "in"
    write_portraits(root, 10, 15, 0)
    face = astronaut()[:260]
    two_faces = np.hstack([face, face[:, ::-1]])
    for name in ("a.jpg", "a.png", "z/a.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(two_faces).save(root / name)
    for name in ("a-1.jpg", "z/a-2.jpg"):
        Image.fromarray(face).save(root / name)
    (root / "damaged.jpg").write_bytes(b"no photo")
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(root / "z/black.png")
    return root


def start(photos: Path, out: Path, log: Path, processes: int = 1, **environment: str) -> subprocess.Popen[str]:
    words = ["align", photos, out, "--choose", "all", "--report", "--device", "cpu", "--min-face", "40"]
    return subprocess.Popen(
        [sys.executable, "-c", _COUNTING, log, str(processes), *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 1) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code and "Traceback" not in err, err
    return out, err


def results(out: Path) -> dict[str, bytes]:
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    return {name.as_posix(): (out / name).read_bytes() for name in names if name.parts[0] != ".sfplus"}


def detected(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.exists() else 0


@pytest.fixture(scope="module")
def expected(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("single")
    finish(start(photos, folder / "out", folder / "log"))
    files = results(folder / "out")
    assert detected(folder / "log") == 154 and {"contact-sheet.png", "faces.parquet", "failures.jsonl"} <= set(files)
    assert len([name for name in files if "/" not in name or name[0] == "z"]) == 5 * 2 - 2 + 3
    return files


@pytest.mark.slow
def test_two_processes_share_the_photos_and_write_the_files_of_one(
    photos: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    logs = [tmp_path / "log0", tmp_path / "log1"]
    processes = [
        start(photos, tmp_path / "out", log, 2, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        for rank, log in enumerate(logs)
    ]
    (output, _), second = finish(processes[0]), finish(processes[1], 0)
    assert "1 photo without a face, 1 failed" in output and second == ("", "")
    assert results(tmp_path / "out") == expected
    shares = [detected(log) for log in logs]
    assert 154 <= sum(shares) <= 156 and min(shares) > 0  # copies of photos are detected once, or by both processes
    assert not list((tmp_path / "out/.sfplus").rglob("*.parts")) + list((tmp_path / "out/.sfplus").rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "killed"), [("detect", 1), ("align", 1), ("detect", 2)])
def test_the_work_of_killed_processes_is_finished_by_others(
    photos: Path, tmp_path: Path, expected: dict[str, bytes], stage: str, killed: int
) -> None:
    """Kill one of two processes, or both and start a third one."""
    logs = [tmp_path / "log0", tmp_path / "log1"]
    processes = [start(photos, tmp_path / "out", log, 2) for log in logs]
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (
        any(map(detected, logs))
        if stage == "detect"
        else list(tmp_path.glob("out/.sfplus/cache/align/*.parts/crops/*"))
    ):
        time.sleep(0.001)
    if not detected(logs[0]):
        processes.reverse()  # kill a process that has detected photos
    for process in processes[:killed]:
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "ended before it could be killed"
    if killed == 2:
        processes.append(start(photos, tmp_path / "out", tmp_path / "log2"))
    _, err = finish(processes[-1])
    assert killed == 1 or "continues an interrupted run" in err
    assert results(tmp_path / "out") == expected
