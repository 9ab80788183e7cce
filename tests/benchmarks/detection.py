"""Detection and alignment against facenet-pytorch and scikit-image, and detection against the floor of the machine.

Photos: real ones from SFPLUS_SHARED_DATA/lfw/photos if that is set, else drawn ones, all 250x250; enlarged for the
races of 30 sizes and of 12 megapixels.
Run on an otherwise idle machine: make bench
"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detection_floor import print_floor
from facenet_pytorch import MTCNN
from racing import in_own_process, race
from skimage.transform import SimilarityTransform
from skimage.transform import warp as skimage_warp

from sfplus.alignment import TEMPLATES, align, fit_similarity, warp
from sfplus.cli.align import align_folder
from sfplus.datasets.portraits import draw_portrait
from sfplus.detection import Detector
from sfplus.detection.pyramid import Pyramid
from sfplus.device import Device, choose_device
from sfplus.images import encode_image, list_photos, read_photo

PHOTOS, FILES, MANY_PHOTOS, ROUNDS = 24, 600, 500, 3
SETTINGS = {"factor": 0.85, "thresholds": [0.6, 0.7, 0.9]}


def photo_files(count: int) -> list[Path]:
    root = Path(os.environ.get("SFPLUS_SHARED_DATA", "")) / "lfw" / "photos"
    names = list_photos(root) if root.is_dir() else []
    return [root / name for name in names[:: max(1, len(names) // count)][:count]]


def photos(count: int) -> list[np.ndarray]:
    return [read_photo(file) for file in photo_files(count)] or [
        draw_portrait(i // 4, i % 4).photo for i in range(count)
    ]


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
    medians = race(runs, ROUNDS)
    for name, seconds in medians.items():
        ratio = medians["facenet-pytorch, batches of 16"] / seconds
        print(f"  detect  {name:<52} {len(images) / seconds:7.1f} photos/s  {ratio:5.2f} x")


def scale(images: list[np.ndarray]) -> list[np.ndarray]:
    """Return two photos of each of 30 sizes."""
    return [cv2.resize(images[i % len(images)], (150 + 7 * (i % 30), 180 + 5 * (i % 30))) for i in range(60)]


def race_sizes(scaled: list[np.ndarray], device: Device) -> None:
    """Race two photos of each of 30 sizes, which are new to the detector, and print what the plans take of it."""
    new = [Detector(mirror_landmarks=False, device=device) for _ in range(5)]
    theirs = MTCNN(min_face_size=20, keep_all=True, device=device.torch, **SETTINGS)
    seconds = race({
        "facenet-pytorch, one by one": lambda: [theirs.detect(photo, landmarks=True) for photo in scaled],
        "sfplus": lambda: new.pop().detect(scaled),
    }, 2)  # fmt: skip
    print_race("30 sizes", seconds, len(scaled))
    detector, pyramid, clock = new.pop(), Pyramid(20, SETTINGS["factor"], device, new[0].sizes), time.process_time()
    detector.detect(scaled)
    detection, clock = time.process_time() - clock, time.process_time()
    for height, width, _ in (photo.shape for photo in scaled[:30]):
        for index in range(len(pyramid.plan(height, width).canvases)):
            pyramid.canvas(height, width, index)
    plans = time.process_time() - clock
    new_sizes = plans / (detection + plans)  # of 60 sizes instead of 30
    print(f"  30 sizes plans and tables {1000 * plans / 30:.2f} ms per size, {plans / detection:.1%} of detection;")
    print(f"           {new_sizes * 2:.1%} if each photo has a size of its own, none for sizes that are kept")


def race_large(large: np.ndarray, device: Device) -> None:
    ours = Detector(mirror_landmarks=False, device=device)
    theirs = MTCNN(min_face_size=20, keep_all=True, device=device.torch, **SETTINGS)
    runs = {"facenet-pytorch": lambda: theirs.detect(large, landmarks=True), "sfplus": lambda: ours.detect(large)}
    print_race("12 MP", race(runs, 1), 1)


def print_race(title: str, seconds: dict[str, float], count: int) -> None:
    usual = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"  {title:<8} {name:<50} {count / value:7.2f} photos/s  {usual / value:5.2f} x")


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


def race_files() -> None:
    """Race the command `align`, from JPEG files to crops on disk, against decoding and detection alone."""
    gc.set_threshold(50_000)  # as the command does
    files = [file.read_bytes() for file in photo_files(FILES)] or [encode_image(image) for image in photos(FILES)]
    with tempfile.TemporaryDirectory() as folder:
        source, runs = Path(folder) / "in", itertools.count()
        source.mkdir()
        for index, data in enumerate(files):
            (source / f"{index:04}.jpg").write_bytes(data)

        def align_files() -> None:
            home = Path(folder) / str(next(runs))
            os.environ["SFPLUS_HOME"] = str(home)  # without what was detected in earlier runs
            with contextlib.redirect_stdout(io.StringIO()):
                align_folder(source, home / "out", "auto")

        def detect_alone() -> None:
            Detector().detect([read_photo(source / name) for name in list_photos(source)])

        seconds = race({"alone": detect_alone, "files": align_files})
        in_own_process(_print_limit, source)
    rate, share = len(files) / seconds["files"], seconds["alone"] / seconds["files"]
    print(f"  files   {'JPEG files to crops on disk':<52} {rate:7.1f} crops/s  {share:5.2f} of decoding and detection")


def _print_limit(source: Path) -> None:
    """Print the seconds of the processor for each part, and the rate if all threads share them and never wait."""
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        clock = time.process_time()
        result = run()
        seconds[name] = time.process_time() - clock
        return result

    images = timed("decode", lambda: [read_photo(source / name) for name in list_photos(source)])
    faces = timed("detect", lambda: Detector().detect(images))
    chosen = [(image, found.landmarks[0]) for image, found in zip(images, faces, strict=True) if len(found)]
    crops = timed("warp", lambda: [align(image, points) for image, points in chosen])
    timed("encode", lambda: [encode_image(crop) for crop in crops])
    threads, twice = torch.get_num_threads(), seconds["decode"]  # the stage `align` decodes each photo again
    alone = seconds["decode"] + seconds["detect"] / threads
    rate = alone / ((sum(seconds.values()) + twice) / threads)
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    print(f"  files   seconds of the processor: {parts}; with nothing else and no waiting {rate:.2f}", flush=True)


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
    print(f"{device.describe()}; {len(images)} photos of {size}; medians of {ROUNDS} rounds")
    race_detectors(images, device)
    scaled, large = scale(images), cv2.resize(images[1], (4000, 3000), interpolation=cv2.INTER_CUBIC)
    race_sizes(scaled, device)
    race_large(large, device)
    print_floor(size, images[:16], SETTINGS)
    print_floor("30 sizes", scaled[:30], SETTINGS)
    print_floor("12 MP", [large], SETTINGS, 1)
    race_warps(images, device)
    race_files()
    clock = time.perf_counter()
    print_peak_memory(int(sys.argv[1]) if len(sys.argv) > 1 else MANY_PHOTOS)
    print(f"          ({time.perf_counter() - clock:.0f} s)")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
