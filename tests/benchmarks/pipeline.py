"""Throughput of each stage's core on this machine, beside facenet-pytorch where it does the same; ratios of medians.

Photos: real ones from SFPLUS_SHARED_DATA/lfw/photos where that is set, else drawn ones (250 x 250 both).
Run with nothing else on the machine: make bench
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from racing import race

from sfplus.alignment import align
from sfplus.datasets.portraits import draw_portrait
from sfplus.detection import Detector
from sfplus.device import choose_device
from sfplus.images import list_photos, read_photo
from sfplus.networks import create
from sfplus.networks.embed import embed_crops
from sfplus.verification.protocols import sphereface

PHOTOS = 48


def photos() -> list[np.ndarray]:
    root = Path(os.environ.get("SFPLUS_SHARED_DATA", "")) / "lfw" / "photos"
    if root.is_dir():
        names = list_photos(root)
        return [read_photo(root / name) for name in names[:: len(names) // PHOTOS][:PHOTOS]]
    return [draw_portrait(i // 4, i % 4).photo for i in range(PHOTOS)]


def main() -> None:
    images = photos()
    device = choose_device("auto")
    size = f"{images[0].shape[1]} x {images[0].shape[0]}"
    print(f"{device.describe()}; {len(images)} photos of {size}; median of 5 rounds")
    batches = [np.stack(images[start : start + 16]) for start in range(0, len(images), 16)]
    ours = Detector(mirror_landmarks=False, device=device)
    mirrored = Detector(device=device)
    theirs = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True, device=device.torch)
    found = race({
        "facenet-pytorch, one by one": lambda: [theirs.detect(image, landmarks=True) for image in images],
        "facenet-pytorch, batches of 16": lambda: [theirs.detect(batch, landmarks=True) for batch in batches],
        "sfplus": lambda: ours.detect(images),
        "sfplus, landmarks averaged with the mirrored face": lambda: mirrored.detect(images),
    })  # fmt: skip
    base = found["facenet-pytorch, batches of 16"]
    for name, seconds in found.items():
        print(f"  detect  {name:<52} {len(images) / seconds:7.1f} photos/s  {base / seconds:5.2f} x")

    faces = [
        (image, faces.landmarks[0]) for image, faces in zip(images, mirrored.detect(images), strict=True) if len(faces)
    ]
    crops = torch.from_numpy(np.stack([align(image, points) for image, points in faces]))
    seconds = race({"align": lambda: [align(image, points) for image, points in faces]})["align"]
    print(f"  align   {'one warp a face':<52} {len(faces) / seconds:7.0f} crops/s")
    for name, width in (("sphereface10", 0.5), ("sphereface20", 1.0)):
        network = device.place(create(name, feature_size=512, width=width)).eval()
        seconds = race({"embed": lambda network=network: embed_crops(network, crops, device)})["embed"]  # type: ignore[misc]
        print(f"  embed   {f'{name}, width {width}, with mirror images':<52} {len(crops) / seconds:7.1f} crops/s")
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 6000, 1024))
    same, fold = np.arange(6000) % 2 == 0, np.arange(6000) // 600
    seconds = race({"verify": lambda: sphereface(left, right, same, fold)})["verify"]
    print(f"  verify  {'6,000 pairs of 1,024-d features, 10 folds':<52} {1000 * seconds:7.0f} ms")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
