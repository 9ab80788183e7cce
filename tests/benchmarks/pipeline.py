"""Measure the throughput of embedding and verification, which have no benchmark elsewhere; medians.

The photos are those of SFPLUS_SHARED_DATA/lfw/photos if this is set, else drawn ones; both are 250x250.
Run on an idle machine: make bench
"""

from __future__ import annotations

import numpy as np
import torch
from detection import photos
from racing import race

from sfplus.alignment import align
from sfplus.detection import Detector
from sfplus.device import choose_device
from sfplus.networks import create
from sfplus.networks.embed import embed_crops
from sfplus.verification.protocols import sphereface

PHOTOS = 48


def main() -> None:
    images = photos(PHOTOS)
    device = choose_device("auto")
    size = f"{images[0].shape[0]}x{images[0].shape[1]}"
    print(f"{device.describe()}; {len(images)} photos of {size}; median of 5 rounds")
    detected = Detector(device=device).detect(images)
    faces = [(image, faces.landmarks[0]) for image, faces in zip(images, detected, strict=True) if len(faces)]
    crops = torch.from_numpy(np.stack([align(image, points) for image, points in faces]))
    for name, width in (("sphereface10", 0.5), ("sphereface20", 1.0)):
        network = device.move(create(name, feature_size=512, width=width)).eval()
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
