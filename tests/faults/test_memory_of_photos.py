"""Memory is bounded by the pixels of photos, not by their number: peaks of separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfplus.datasets.portraits import write_portraits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc"),
]

# The peak in bytes of this program; that of `getrusage` starts with the peak of the process that started it.
PEAK = """
def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
"""
# Reads the photos of folders as all commands do, with a detector that finds nothing. Prints the number of photos that
# were read and the growth of the peak in bytes, in a process for each folder, whose peak starts anew.
ALIGN = """
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from sfplus.aligner import Aligner
from sfplus.alignment import find_template
from sfplus.detection import Faces
from sfplus.detection.sizes import sizes_for
from sfplus.device import choose_device
from sfplus.io.memory import return_photo_memory
return_photo_memory()  # as commands do
detect = lambda photos: [Faces.empty() for _ in photos]
detector = SimpleNamespace(sizes=sizes_for(choose_device("cpu")), detect=detect)
aligner = Aligner(detector, find_template("sphereface-112x96"))
for folder in sys.argv[1:]:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    before = peak()
    photos = sorted(Path(folder).iterdir())
    results = list(aligner.align(photos, "all")[0])
    assert len(results) == len(photos)
    print(sum(result.error is None for result in results), peak() - before)
    break
"""
READ = """
import sys
from pathlib import Path
from sfplus.images import read_photo
before = peak()
print(read_photo(Path(sys.argv[1])).size // 3, peak() - before)
"""


def run(code: str, *paths: Path) -> list[tuple[int, int]]:
    """Run a program and return the two numbers that it prints for each path."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", PEAK + code, *paths], capture_output=True, text=True, check=True, env=environment
    )
    numbers = [tuple(map(int, line.split())) for line in answer.stdout.splitlines()]
    return [(first, second) for first, second in numbers]


def write_bomb(path: Path, number: int) -> None:
    """Write a WebP of 34 bytes that declares 100 megapixels."""
    bits = (12_000 - 1) | (8_333 - 1) << 14
    body = b"\x2f" + bits.to_bytes(4, "little") + bytes([0x88, 0x88, 0x08, number, 0, 0, 0, 0, 0])
    path.write_bytes(b"RIFF" + (26).to_bytes(4, "little") + b"WEBPVP8L" + (14).to_bytes(4, "little") + body)


def test_many_photos_take_the_memory_of_few(tmp_path: Path) -> None:
    cases = [  # width, height, number of photos, bytes
        (6000, 5000, 4, 7 * 30_000_000),  # each alone
        (4000, 3000, 5, 200_000_000),  # two at a time
        (1000, 800, 60, 200_000_000),
    ]
    for width, height, count, _ in cases:
        (tmp_path / f"{width}").mkdir()
        for number in range(count):
            Image.new("RGB", (width, height), (number, 9, 9)).save(tmp_path / f"{width}" / f"{number}.jpg")
    bombs = tmp_path / "bombs"
    bombs.mkdir()
    for number in range(12):
        write_bomb(bombs / f"{number}.webp", number)
    assert {path.stat().st_size for path in bombs.iterdir()} == {34}
    *results, of_bombs = run(ALIGN, *(tmp_path / f"{width}" for width, *_ in cases), bombs)
    for (_, _, count, most), (read, memory) in zip(cases, results, strict=True):
        assert read == count and memory < 1.15 * most + 30_000_000
    assert of_bombs[0] == 0 and of_bombs[1] < 30_000_000


KINDS = {
    "a.jpg": ("RGB", {}),
    "progressive.jpg": ("RGB", {"progressive": True}),
    "rotated.jpg": ("RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    "cmyk.jpg": ("CMYK", {}),
    "a.png": ("RGB", {"compress_level": 1}),
    "transparent.png": ("RGBA", {"compress_level": 1}),
    "16 bits.png": ("I;16", {"compress_level": 1}),
    "a.tif": ("RGB", {}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "cmyk.tif": ("CMYK", {}),
    "a.gif": ("P", {}),
    "a.bmp": ("RGB", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_decoding_takes_seven_bytes_per_pixel(name: str, tmp_path: Path) -> None:
    mode, options = KINDS[name]
    if mode == "I;16":
        image = Image.fromarray(np.full((3000, 4000), 999, np.uint16))
    else:
        image = Image.new(mode, (4000, 3000), 9)
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    ((pixels, memory),) = run(READ, tmp_path / name)
    assert pixels == 12_000_000 and memory < 7 * pixels + 20_000_000


@pytest.mark.parametrize(("name", "options", "most"), [
    ("a.webp", {"lossless": True, "method": 0, "quality": 0}, 17),
    ("a.avif", {"speed": 10}, 11),
    ("a.jp2", {}, 25),
    ("a.jpg", {"progressive": True, "subsampling": 0}, 10),
    ("a.tif", {"compression": "tiff_lzw", "strip_size": 1 << 30}, 13),
])  # fmt: skip
def test_decoding_other_formats_takes_what_their_limit_of_pixels_allows_for(
    name: str, options: dict[str, object], most: int, tmp_path: Path
) -> None:
    Image.new("RGB", (4000, 3000), 9).save(tmp_path / name, **options)
    ((pixels, memory),) = run(READ, tmp_path / name)
    assert pixels == 12_000_000 and memory < most * pixels + 30_000_000


def test_a_command_on_the_largest_and_on_hostile_photos_stays_within_its_memory(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(12):
        write_bomb(tmp_path / "photos" / f"{number}.webp", number)
    write_portraits(tmp_path / "portraits", 1, 1, 0)
    with Image.open(next((tmp_path / "portraits").rglob("*.jpg"))) as portrait:
        turned = portrait.resize((4000, 4000)).transpose(Image.Transpose.ROTATE_90)  # upright with EXIF orientation 6
    photo = Image.new("RGB", (12_000, 8333), (90, 90, 90))
    photo.paste(turned, (4000, 2000))
    photo.save(tmp_path / "photos/large.jpg", **KINDS["rotated.jpg"][1])
    code = f"{PEAK}import atexit\natexit.register(lambda: print(peak()))\nfrom sfplus.__main__ import main\nmain()"
    command = [sys.executable, "-c", code, "align", tmp_path / "photos", tmp_path / "out", "--min-face", "500"]
    answer = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert answer.returncode == 1 and "1 crop" in answer.stdout and "12 failed" in answer.stdout
    assert "Traceback" not in answer.stderr
    assert int(answer.stdout.split()[-1]) < 1.5e9
