"""Detection and alignment against facenet-pytorch and scikit-image, and against the time of the multiply-adds alone.

Photos: real ones from SFPLUS_SHARED_DATA/lfw/photos if that is set, else drawn ones, all 250x250.
Run on an otherwise idle machine: make bench
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from racing import in_own_process, race
from skimage.transform import SimilarityTransform
from skimage.transform import warp as skimage_warp

from sfplus.alignment import TEMPLATES, fit_similarity, warp
from sfplus.datasets.portraits import draw_portrait
from sfplus.detection import Detector
from sfplus.device import Device, choose_device
from sfplus.images import encode_image, list_photos, read_photo

PHOTOS, MANY_PHOTOS = 48, 10_000
SETTINGS = {"factor": 0.85, "thresholds": [0.6, 0.7, 0.9]}


def photos(count: int) -> list[np.ndarray]:
    root = Path(os.environ.get("SFPLUS_SHARED_DATA", "")) / "lfw" / "photos"
    if root.is_dir():
        names = list_photos(root)
        return [read_photo(root / name) for name in names[:: len(names) // count][:count]]
    return [draw_portrait(i // 4, i % 4).photo for i in range(count)]


def race_detectors(images: list[np.ndarray], device: Device) -> None:
    batches = [np.stack(images[start : start + 16]) for start in range(0, len(images), 16)]
    ours, mirrored = Detector(mirror_landmarks=False, device=device), Detector(device=device)
    theirs = MTCNN(min_face_size=20, keep_all=True, device=device.torch, **SETTINGS)
    runs = {
        "facenet-pytorch, one by one": lambda: [theirs.detect(image, landmarks=True) for image in images],
        "facenet-pytorch, batches of 16": lambda: [theirs.detect(batch, landmarks=True) for batch in batches],
        "sfplus, one by one": lambda: [ours.detect([image]) for image in images],
        "sfplus": lambda: ours.detect(images),
        "sfplus, landmarks averaged with the mirrored face": lambda: mirrored.detect(images),
    }
    try:
        from mtcnn import MTCNN as Ipazc

        ipazc = Ipazc(device="CPU:0")
        runs["ipazc/mtcnn, one by one"] = lambda: [
            ipazc.detect_faces(i, min_face_size=20, scale_factor=0.85) for i in images
        ]
    except ImportError:
        print("  detect  ipazc/mtcnn is not installed (it needs TensorFlow)")
    medians = race(runs)
    for name, seconds in medians.items():
        ratio = medians["facenet-pytorch, batches of 16"] / seconds
        print(f"  detect  {name:<52} {len(images) / seconds:7.1f} photos/s  {ratio:5.2f} x")
    print_floor(ours, len(images), medians["sfplus"])


def print_floor(detector: Detector, count: int, seconds: float) -> None:
    """Print the time of P-Net's multiply-adds over all levels, at the rate of matrix products on as many threads."""
    cells = [((h - 2) * (w - 2), (h // 2 - 3) * (w // 2 - 3), (h // 2 - 5) * (w // 2 - 5)) for h, w in levels(detector)]
    adds = sum(first * 270 + second * 1440 + third * (4608 + 192) for first, second, third in cells)
    matrix = torch.randn(2048, 2048)
    rate = 2048**3 / race({"sgemm": lambda: matrix @ matrix})["sgemm"]
    floor = 1000 * adds / rate
    print(f"  floor   P-Net, {adds / 1e6:.0f} M multiply-adds at {rate / 1e9:.0f} G/s: {floor:.2f} ms")
    print(f"          of {1000 * seconds / count:.2f} ms per photo")


def levels(detector: Detector) -> list[tuple[int, int]]:
    return detector._pyramid.plan(250, 250).sides


def race_warps(images: list[np.ndarray], device: Device) -> None:
    detections = zip(images, Detector(device=device).detect(images), strict=True)
    faces = [(image, detected.landmarks[0]) for image, detected in detections if len(detected)]
    matrices = fit_similarity(np.stack([points for _, points in faces]), "sphereface-112x96", "template")
    goal = TEMPLATES["sphereface-112x96"].points

    def skimage(fit: bool) -> None:
        for (image, points), matrix in zip(faces, matrices, strict=True):
            fitted = SimilarityTransform(np.vstack([matrix, [0, 0, 1]]))
            transform = SimilarityTransform.from_estimate(points, goal) if fit else fitted
            skimage_warp(image, transform.inverse, output_shape=(112, 96), preserve_range=True).astype(np.uint8)

    def fit_and_warp() -> None:
        matrices = fit_similarity(np.stack([points for _, points in faces]), "sphereface-112x96", "template")
        for (image, _), matrix in zip(faces, matrices, strict=True):
            warp(image, matrix)

    seconds = race({
        "scikit-image, warp alone": lambda: skimage(False),
        "sfplus, warp alone": lambda: [warp(image, m) for (image, _), m in zip(faces, matrices, strict=True)],
        "scikit-image, fit and warp": lambda: skimage(True),
        "sfplus, fit and warp": fit_and_warp,
    })  # fmt: skip
    for name, value in seconds.items():
        ratio = seconds[name.replace("sfplus", "scikit-image")] / value
        print(f"  align   {name:<52} {len(faces) / value:7.0f} crops/s  {ratio:5.1f} x")


def race_files(images: list[np.ndarray]) -> None:
    """Print the rate from JPEG files to crops on disk, in a new process, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for index in range(600):
            (source / f"{index:04}.jpg").write_bytes(encode_image(images[index % len(images)], ".jpg", 95))
        seconds, _ = in_own_process(_align, source, Path(folder) / "out")
        print(f"  files   {'600 JPEG files to crops, imports included':<52} {600 / seconds:7.1f} crops/s")


def _align(source: Path, out: Path) -> None:
    from sfplus.cli.align import align_folder

    align_folder(source, out, "auto")


def print_peak_memory(count: int) -> None:
    """Print the peak memory after a tenth of many photos, and after all of them."""
    first, last = (in_own_process(_detect, number)[1] for number in (count // 10, count))
    print(f"  memory  peak after {count // 10} photos {first:.0f} MB, after {count} {last:.0f} MB")


def _detect(count: int) -> None:
    images, detector = photos(PHOTOS), Detector()
    for start in range(0, count, len(images)):
        detector.detect(images[: count - start])


def main() -> None:
    images, device = photos(PHOTOS), choose_device("auto")
    size = f"{images[0].shape[0]}x{images[0].shape[1]}"
    print(f"{device.describe()}; {len(images)} photos of {size}; median of 5 rounds")
    race_detectors(images, device)
    race_warps(images, device)
    race_files(images)
    clock = time.perf_counter()
    print_peak_memory(int(sys.argv[1]) if len(sys.argv) > 1 else MANY_PHOTOS)
    print(f"          ({time.perf_counter() - clock:.0f} s)")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
