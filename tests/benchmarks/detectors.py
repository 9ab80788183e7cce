"""MTCNN against YuNet: faces found on several kinds of photos, errors of landmarks, photos a second.

Photos: LFW from SFPLUS_SHARED_DATA/lfw/photos, else drawn ones; and CFP with its fiducials, if CFP is set to the folder
that holds Data/. YuNet takes part if it is fetched: sfplus models fetch yunet. A face counts as found if its five
landmarks are right: the mean error is less than 0.3 of the distance between the eyes. On photos of LFW, the truth is
the mean of both detectors on the upright, clear photo, where they agree within 0.3; crowds, turned, masked and dark
photos are made of these. On CFP, the visible eye, the tip of the nose and the corner of the mouth count, in parts of
the distance from eye to mouth.

Run on an otherwise idle machine: make bench
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from racing import race

from sfplus.datasets.portraits import draw_portrait
from sfplus.detection import Detector, Faces, TurnedDetector, YuNet
from sfplus.errors import UsageError
from sfplus.images import list_photos, read_photo

PHOTOS, CFP_PHOTOS, MIN_FACE, RIGHT = int(os.environ.get("PHOTOS", 200)), 200, 20, 0.3
ANGLES = (15, 30, 45, 60, 75, 90, 180)
Points = np.ndarray


def lfw() -> list[Points]:
    root = Path(os.environ.get("SFPLUS_SHARED_DATA", "")) / "lfw" / "photos"
    if not root.is_dir():
        return []
    names = list_photos(root)
    return [read_photo(root / name) for name in names[:: max(1, len(names) // PHOTOS)][:PHOTOS]]


def error(found: Faces, truth: Points) -> float:
    """Return the smallest mean error of the landmarks of a face, in parts of the distance between the eyes."""
    eyes = np.linalg.norm(truth[0] - truth[1])
    return float(min(np.linalg.norm(found.landmarks - truth, axis=2).mean(1), default=9e9) / eyes)


def agreed_truth(photos: list[Points], detectors: dict[str, Detector]) -> tuple[list[Points], list[Points]]:
    """Return the photos on which all detectors agree, and the mean landmarks of the most central face."""
    kept, truth = [], []
    for photo, *found in zip(photos, *(detector.detect(photos) for detector in detectors.values()), strict=True):
        centre = np.array(photo.shape[1::-1]) / 2
        if not all(map(len, found)):
            continue
        faces = [min(faces.landmarks, key=lambda points: np.linalg.norm(points.mean(0) - centre)) for faces in found]
        mean = np.mean(faces, 0)
        if all(
            np.linalg.norm(points - mean, axis=1).mean() < RIGHT / 2 * np.linalg.norm(mean[0] - mean[1])
            for points in faces
        ):
            kept.append(photo)
            truth.append(mean)
    return kept, truth


def turn(photo: Points, points: Points, degrees: float) -> tuple[Points, Points]:
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), points @ matrix[
        :, :2
    ].T + matrix[:, 2]


def mask(photo: Points, points: Points) -> Points:
    """Cover the face from the middle of the nose downwards with a light blue mask."""
    covered, eyes = photo.copy(), points[1] - points[0]
    down = np.array([-eyes[1], eyes[0]])
    top, bottom = (points[0] + points[1]) / 2 + 0.55 * down, points[3:].mean(0) + 0.75 * down
    corners = [top - 0.95 * eyes, top + 0.95 * eyes, bottom + 0.7 * eyes, bottom - 0.7 * eyes]
    cv2.fillConvexPoly(covered, np.round(corners).astype(np.int32), (170, 200, 215), cv2.LINE_AA)
    return covered


def darken(photo: Points) -> Points:
    """Keep a twentieth of the light, with noise, as a camera stores it: gamma 2.2, 8 bits."""
    light = (photo / 255) ** 2.2 / 20 + np.random.default_rng(0).normal(0, 0.002, photo.shape)
    return (255 * light.clip(0, 1) ** (1 / 2.2)).round().astype(np.uint8)


def crowds(photos: list[Points], truth: list[Points], side: int = 75) -> tuple[list[Points], list[list[Points]]]:
    """Put photos side by side, 40 in each crowd, in which faces are about 30 pixels wide."""
    images, landmarks = [], []
    for start in range(0, len(photos) - 39, 40):
        image, points = np.zeros((5 * side, 8 * side, 3), np.uint8), []
        for place, index in enumerate(range(start, start + 40)):
            y, x, scale = place // 8 * side, place % 8 * side, side / photos[index].shape[0]
            image[y : y + side, x : x + side] = cv2.resize(photos[index], (side, side), interpolation=cv2.INTER_AREA)
            points.append((truth[index] + 0.5) * scale - 0.5 + [x, y])
        images.append(image)
        landmarks.append(points)
    return images, landmarks


def print_recall(name: str, detectors: dict[str, Detector], photos: list[Points], truth: list[list[Points]]) -> None:
    cells = []
    for detector in detectors.values():
        found = detector.detect(photos)
        errors = [error(faces, points) for faces, people in zip(found, truth, strict=True) for points in people]
        right = [value for value in errors if value < RIGHT]
        more = sum(map(len, found)) - len(right)
        cells.append(f"{100 * len(right) / len(errors):5.1f} % ({more} others)")
    print(f"  {name:<22} {sum(map(len, truth)):5} faces  " + "  ".join(f"{cell:<20}" for cell in cells), flush=True)


def print_drawn(detectors: dict[str, Detector]) -> None:
    portraits = [draw_portrait(person, number) for person in range(25) for number in range(4)]
    for name, detector in detectors.items():
        found = detector.detect([portrait.photo for portrait in portraits])
        errors = np.array([error(faces, portrait.landmarks) for faces, portrait in zip(found, portraits, strict=True)])
        right = errors[errors < RIGHT]
        print(
            f"  drawn faces, {name}: {len(right)} of {len(errors)} found, "
            f"mean error {100 * right.mean():.1f} % of the eyes",
            flush=True,
        )


def print_cfp(detectors: dict[str, Detector], kind: str) -> None:
    root = Path(os.environ["CFP"]) / "Data"
    paths = sorted((root / "Images").rglob(f"{kind}/*.jpg"))
    paths = paths[:: max(1, len(paths) // CFP_PHOTOS)][:CFP_PHOTOS]
    photos = [read_photo(path) for path in paths]
    fiducials = [
        np.loadtxt(root / "Fiducials" / path.parts[-3] / kind / f"{path.stem}.txt", delimiter=",") for path in paths
    ]
    truth = [np.stack([points[12:18].mean(0), points[21], points[25]]) for points in fiducials]
    for name, detector in detectors.items():
        errors = []
        for faces, (eye, nose, mouth) in zip(detector.detect(photos), truth, strict=True):
            found = faces.landmarks
            distances = [
                np.linalg.norm(found[:, :2] - eye, axis=2).min(1), np.linalg.norm(found[:, 2] - nose, axis=1),
                np.linalg.norm(found[:, 3:] - mouth, axis=2).min(1),
            ]  # fmt: skip
            errors.append(min(np.mean(distances, 0), default=9e9) / np.linalg.norm(eye - mouth))
        right, any_face = [value for value in errors if value < RIGHT], sum(value < 1e6 for value in errors)
        print(f"  CFP {kind}, {name}: a face in {any_face} of {len(errors)}, {len(right)} right, mean error "
              f"{100 * np.mean(right):.1f} % of eye to mouth", flush=True)  # fmt: skip


def print_speed(detectors: dict[str, Detector], photos: list[Points]) -> None:
    large = [cv2.resize(photo, (3000, 2000), interpolation=cv2.INTER_CUBIC) for photo in photos[:2]]
    for size, images, rounds in (("250x250", photos[:32], 5), ("3000x2000", large, 3)):
        seconds = race({name: partial(detector.detect, images) for name, detector in detectors.items()}, rounds)
        first = next(iter(seconds.values()))
        for name, value in seconds.items():
            print(f"  {size}, {name}: {len(images) / value:.2f} photos/s, {first / value:.2f}x", flush=True)


def main() -> None:
    detectors: dict[str, Detector] = {"mtcnn": Detector(MIN_FACE, device="cpu")}
    try:
        detectors["yunet"] = YuNet(MIN_FACE, device="cpu")
    except UsageError as reason:
        print(f"  {reason}")
        return
    if photos := lfw():
        clear, truth = agreed_truth(photos, detectors)
        print(f"  {len(clear)} of {len(photos)} photos of LFW, on which both agree; columns: {', '.join(detectors)}")
        print_recall("upright", detectors, clear, [[points] for points in truth])
        print_recall("crowds", detectors, *crowds(clear, truth))
        print_recall(
            "masked", detectors, [mask(*pair) for pair in zip(clear, truth, strict=True)], [[p] for p in truth]
        )
        print_recall("dark", detectors, list(map(darken, clear)), [[points] for points in truth])
        with_turned = detectors | {f"{name} --turned": TurnedDetector(detector) for name, detector in detectors.items()}
        print(f"  columns: {', '.join(with_turned)}")
        for degrees in ANGLES:
            turned = [turn(photo, points, degrees) for photo, points in zip(clear[:60], truth, strict=False)]
            print_recall(
                f"turned by {degrees}", with_turned, [photo for photo, _ in turned], [[points] for _, points in turned]
            )
        for name, detector in detectors.items():
            count = sum(len(faces) > 0 for faces in detector.detect(photos))
            print(f"  LFW, all {len(photos)} photos, {name}: a face in {count}")
        print_speed(detectors, photos)
    print_drawn(detectors)
    if os.environ.get("CFP"):
        for kind in ("frontal", "profile"):
            print_cfp(detectors, kind)


if __name__ == "__main__":
    main()
