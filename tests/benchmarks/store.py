"""Measure how fast batches of crops are read from a pack and from a folder of JPEG crops; both give equal pixels.

The crops are random and saved as JPEG of quality 75, as sfplus align writes them. Each batch is a random draw over the
whole set, as in a shuffled epoch. `first epoch` opens the pack again, so that each crop is compared with its checksum;
`later epochs` are without. The files were just written and are in the page cache, so the benchmark measures the work of
the processor. Read from a disk for the first time, a crop of a pack takes 32 kB (10,000 crops/s are 0.32 GB/s), a JPEG
3 kB. The results are medians.

The environment variables CROPS and ROOT change the number of crops and the folder. Run it on an idle machine:
make bench
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
        write_crops(root / "crops")
        pack(root / "crops", root / "crops.pack")
        _, labels, names = assign_labels(list_photos(root / "crops"))
        files = CropDataset([root / "crops" / name for name in names], labels, 112, 96)
        files._cache = None  # as for a set that does not fit into memory
        packed = PackedCrops(root / "crops.pack")
        rng = np.random.default_rng(0)
        batches = rng.permutation(CROPS).reshape(-1, BATCH)
        for batch in batches[:8]:
            assert all(torch.equal(a, b) for a, b in zip(files.batch(batch), packed.batch(batch), strict=True))
        read_all(packed, batches)
        sample = batches[: max(1, len(batches) // 8)]
        seconds = race(
            {
                "folder": lambda: read_all(files, sample),
                "first epoch": lambda: read_all(PackedCrops(root / "crops.pack"), batches),
                "later epochs": lambda: read_all(packed, batches),
            }
        )
    rates = {name: BATCH * len(sample if name == "folder" else batches) / took for name, took in seconds.items()}
    print(f"{CROPS} crops of 112x96, shuffled batches of {BATCH}, equal from both; median of 5 rounds")
    for name, description in (
        ("folder", "JPEG folder, decoded in two threads"),
        ("first epoch", "pack, each crop compared with its checksum"),
        ("later epochs", "pack, later epochs"),
    ):
        print(f"  {description:<46} {rates[name]:9.0f} crops/s  {rates[name] / rates['folder']:6.1f} x")


def write_crops(root: Path) -> None:
    """Write blurred noise, which compresses about as well as crops of faces."""
    rng = np.random.default_rng(0)
    for number in range(CROPS):
        path = root / f"person {number % PEOPLE:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (112, 96, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(1.5)).save(path, quality=75)


def read_all(crops: CropDataset | PackedCrops, batches: np.ndarray) -> None:
    for batch in batches:
        crops.batch(batch)


if __name__ == "__main__":
    main()
