"""Batches of crops: from a pack, and from a folder of JPEG crops; the pixels are compared first. Medians.

Crops: drawn at random, saved as JPEG of quality 75, as sfplus align writes them. Every batch is a random draw over the
whole set, as in a shuffled epoch. `first epoch` opens the pack anew, so each crop is compared with its checksum;
`later` is without. The files were just written, so they are in the page cache: what is measured is the work of the
processor. Read from a disk for the first time, a pack needs 32 kB per crop (10,000 crops/s are 0.32 GB/s), a JPEG 3 kB.

CROPS= and ROOT= of the environment change the number and the place. Run with nothing else on the machine: make bench
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from racing import race

from sfplus.cli.pack import pack
from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.datasets.identities import assign_labels
from sfplus.images import list_photos

BATCH, CROPS, PEOPLE = 256, int(os.environ.get("CROPS", 8192)), 64


def main() -> None:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(dir=os.environ.get("ROOT")) as folder:
        root = Path(folder)
        write(root / "crops")
        pack(root / "crops", root / "crops.pack")
        _, labels, names = assign_labels(list_photos(root / "crops"))
        files = CropDataset([root / "crops" / name for name in names], labels, 112, 96)
        files._cache = None  # a set that is larger than memory
        packed = PackedCrops(root / "crops.pack")
        rng = np.random.default_rng(0)
        drawn = rng.permutation(CROPS).reshape(-1, BATCH)
        for batch in drawn[:8]:
            assert all(torch.equal(a, b) for a, b in zip(files.batch(batch), packed.batch(batch), strict=True))
        epoch(packed, drawn)
        few = drawn[: max(1, len(drawn) // 8)]
        seconds = race(
            {
                "folder": lambda: epoch(files, few),
                "first epoch": lambda: epoch(PackedCrops(root / "crops.pack"), drawn),
                "later": lambda: epoch(packed, drawn),
            }
        )
    speeds = {name: BATCH * len(few if name == "folder" else drawn) / took for name, took in seconds.items()}
    print(f"{CROPS} crops of 112 x 96, shuffled batches of {BATCH}, equal from both; median of 5 rounds")
    for name, what in (
        ("folder", "JPEG folder, decoded in two threads"),
        ("first epoch", "pack, each crop compared with its checksum"),
        ("later", "pack, later epochs"),
    ):
        print(f"  {what:<46} {speeds[name]:9.0f} crops/s  {speeds[name] / speeds['folder']:6.1f} x")


def write(root: Path) -> None:
    """Blurred noise: it compresses about as crops of faces do."""
    rng = np.random.default_rng(0)
    for number in range(CROPS):
        path = root / f"person {number % PEOPLE:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (112, 96, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(1.5)).save(path, quality=75)


def epoch(crops: CropDataset | PackedCrops, drawn: np.ndarray) -> None:
    for batch in drawn:
        crops.batch(batch)


if __name__ == "__main__":
    main()
