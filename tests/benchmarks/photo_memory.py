"""The peak memory of the commands on folders of large and hostile photos: python tests/benchmarks/photo_memory.py

Each command runs in a process of its own. Those of a folder share a home, so that the faces that `detect` finds in it
are known to the next commands; `compare` detects again, in one photo of the folder and a small one. Linux only.
Arguments: names of folders and of commands; without, all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sfplus.datasets.portraits import draw_portrait

MEGA = 1_000_000
RUN = """
import atexit, sys
def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("PEAK", int(line.split()[1]) * 1024, file=sys.stderr)
atexit.register(peak)
from sfplus.__main__ import main
main()
"""
COMMANDS = ("detect", "align", "embed", "group", "find", "compare", "pack")


def draw(width: int, height: int, side: int = 1500) -> Image.Image:
    """Draw a photo of many faces."""
    pixels = np.empty((height, width, 3), np.uint8)
    tiles = [cv2.resize(draw_portrait(person, 0).photo, (side, side)) for person in range(6)]
    for number, (y, x) in enumerate((y, x) for y in range(0, height, side) for x in range(0, width, side)):
        pixels[y : y + side, x : x + side] = tiles[number % 6][: height - y, : width - x]
    return Image.fromarray(pixels)


def write_bombs(folder: Path) -> None:
    """Write twelve WebP files of 34 bytes that declare 100 megapixels each."""
    for number in range(12):
        bits = (12_000 - 1) | (8_333 - 1) << 14
        body = b"\x2f" + bits.to_bytes(4, "little") + bytes([0x88, 0x88, 0x08, number, 0, 0, 0, 0, 0])
        size, kind = (26).to_bytes(4, "little"), (14).to_bytes(4, "little")
        (folder / f"{number}.webp").write_bytes(b"RIFF" + size + b"WEBPVP8L" + kind + body)


def writer(
    suffix: str, width: int, height: int, count: int = 1, mode: str = "RGB", **options: object
) -> Callable[[Path], None]:
    """Return a function that writes equal photos to a folder."""

    def write(folder: Path) -> None:
        draw(width, height).convert(mode).save(folder / f"0{suffix}", **options)
        data = (folder / f"0{suffix}").read_bytes()
        for number in range(1, count):  # bytes after the end of a JPEG make other contents, which are detected anew
            (folder / f"{number}{suffix}").write_bytes(data + bytes([number]))

    return write


FOLDERS = {
    "six JPEG, 24 MP": writer(".jpg", 6000, 4000, 6),
    "twelve JPEG, 50 MP": writer(".jpg", 8660, 5774, 12),
    "JPEG, 100 MP": writer(".jpg", 12_000, 8333),
    "progressive JPEG, 100 MP": writer(".jpg", 12_000, 8333, progressive=True),
    "PNG, 100 MP": writer(".png", 12_000, 8333, compress_level=1),
    "two 1-bit PNG, 100 MP": writer(".png", 12_000, 8333, 2, mode="1"),
    "WebP, 100 MP": writer(".webp", 16_383, 6103, method=0, quality=60),
    "twelve WebP of 34 bytes": write_bombs,
}


def words(command: str, photos: Path, small: Path, out: Path) -> list[object]:
    if command == "find":
        return [command, small, photos, "--out", out]
    if command == "compare":
        return [command, next(photos.glob("*/*")), small]
    return [command, photos, out]


def measure(command: str, photos: Path, small: Path, work: Path) -> str:
    environment = os.environ | {"SFPLUS_HOME": str(work / "home")}
    line = words(command, photos, small, work / command)
    device = [] if command == "pack" else ["--device", "cpu"]
    started = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, line), *device], capture_output=True, text=True, env=environment
    )
    *text, peak = answer.stderr.strip().splitlines()
    ending = f"exit code {answer.returncode}" + (f": {text[-1]}" if answer.returncode and text else "")
    return f"{int(peak.split()[1]) / 1e9:5.2f} GB  {time.monotonic() - started:6.1f} s  {ending}"


def main(chosen: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        small = Path(temporary) / "small.jpg"
        draw(250, 250, 250).save(small)
        for name, write in FOLDERS.items():
            if set(chosen) & set(FOLDERS) and name not in chosen:
                continue
            photos = Path(temporary) / name / "photos"
            (photos / "person").mkdir(parents=True)
            write(photos / "person")
            for command in COMMANDS:
                if not set(chosen) & set(COMMANDS) or command in chosen:
                    print(f"{name:26}{command:9}{measure(command, photos, small, photos.parent)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
