"""Peak memory of the detector, measured in separate processes."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_a_photo_of_forty_megapixels_needs_less_than_two_gigabytes() -> None:
    code = """
from pathlib import Path
import numpy as np
from skimage import data
from sfplus.detection import Detector
photo = np.tile(data.astronaut()[:500, :500], (10, 16, 1))
faces, = Detector(min_face=40, device="cpu").detect([photo])
assert len(faces) >= 100, len(faces)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout.split()[-1]) * 1024 < 2e9


def test_a_crowd_of_a_thousand_is_detected_in_bounded_memory() -> None:
    code = """
from pathlib import Path
import numpy as np
from skimage import data
from skimage.transform import resize
from sfplus.detection import Detector
detector = Detector(device="cpu")
detector.detect([data.astronaut()])
def peak(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
face = (resize(data.astronaut()[20:220, 130:310], (60, 54), anti_aliasing=True) * 255).astype(np.uint8)
rng = np.random.default_rng(0)
tiles = [np.clip(face[:, :: rng.choice([-1, 1])] * rng.uniform(0.8, 1.1), 0, 255) for _ in range(1000)]
crowd = np.array(tiles, np.uint8).reshape(25, 40, 60, 54, 3).swapaxes(1, 2).reshape(1500, 2160, 3)
faces, = detector.detect([crowd])
middles = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
print(len({(int(y // 60), int(x // 54)) for x, y in middles}))
print(peak() - before)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, memory = map(int, answer.stdout.split())
    assert count == 1000
    assert memory < 400_000


def test_memory_does_not_grow_over_many_calls() -> None:
    code = """
import numpy as np
from pathlib import Path
from sfplus.detection import Detector
photos = list(np.random.default_rng(0).integers(0, 256, (8, 120, 100, 3), np.uint8))
detector = Detector(device="cpu")
def used(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4
for turn in range(100):
    detector.detect(photos)
    if turn == 20: before = used()
print(used() - before)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert int(answer.stdout) < 20_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries treat freed memory in other ways")
def test_a_command_does_not_request_memory_anew_for_each_photo() -> None:
    """Requests show as page faults, thousands for each photo if `return_photo_memory` sets no M_TRIM_THRESHOLD."""
    code = """
import resource
from sfplus.datasets.portraits import draw_portrait
from sfplus.detection import Detector
from sfplus.io.memory import return_photo_memory
return_photo_memory()
photos = [draw_portrait(person, 0).photo for person in range(4)]
detector = Detector(device="cpu")
def detect():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert all(len(detector.detect(photo)) for photo in photos)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // len(photos)
detect(), detect()
print(sorted(detect() for _ in range(5))[2])
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(answer.stdout) < 500
