"""The detector with parity="facenet-pytorch" against the package, face by face; prints the differences.

Of the 8,912 faces in LFW, 25 differ by more than 0.5 px. For 18 of them facenet-pytorch itself gives other results,
either for the photo alone or in another batch, and 24 of ours are among its results: the candidates have equal scores,
and rounding chooses one.

All photos of the given folders are compared, or every 40th of SFPLUS_SHARED_DATA (all of them take half an hour).
Photos of one size are in batches of 16, as facenet-pytorch requires.
Run: python tests/benchmarks/parity.py [FOLDER ...]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from facenet_pytorch import MTCNN

from sfplus.detection import Detector, Faces
from sfplus.images import list_photos, read_photo
from sfplus.io.prefetch import prefetch_map

LIMITS, TIE = (0.01, 0.1, 0.5), 5.0  # pixels
MAX_PRINTED = 30
Photo = np.ndarray


def batches(root: Path, step: int) -> Iterator[tuple[list[str], list[Photo]]]:
    """Yield names and photos in order, in batches of at most 16 of one size."""
    names = list_photos(root)[::step]
    photos = zip(names, prefetch_map(lambda name: read_photo(root / name), names), strict=True)
    for _, group in groupby(photos, lambda item: item[1].shape):
        while batch := list(islice(group, 16)):
            yield [name for name, _ in batch], [photo for _, photo in batch]


def facenet_faces(network: MTCNN, photos: list[Photo]) -> list[Faces]:
    detections = zip(*network.detect(np.stack(photos), landmarks=True), strict=True)
    return [
        Faces.empty() if boxes is None else Faces(*(np.array(part, np.float32) for part in (boxes, scores, landmarks)))
        for boxes, scores, landmarks in detections
    ]


def nearest(faces: Faces, reference: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Compare each face with the nearest reference face.

    Returns:
        The largest difference of a coordinate, pixels, and the difference of the scores, both (N,).
    """
    if not len(reference):
        return np.full(len(faces), np.inf), np.full(len(faces), np.inf)
    left, right = (np.hstack([x.boxes, x.landmarks.reshape(-1, 10)]).astype(float) for x in (faces, reference))
    distances = abs(left[:, None] - right).max(2)
    return distances.min(1), abs(faces.scores - reference.scores[distances.argmin(1)])


def compare(root: Path, step: int) -> None:
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True, device="cpu")
    ours = Detector(device="cpu", parity="facenet-pytorch")
    photos, sizes, distances, scores, extra, differing = 0, set(), [np.empty(0)], [np.empty(0)], 0, []
    for names, batch in batches(root, step):
        photos += len(batch)
        sizes.add(batch[0].shape)
        for name, expected, faces in zip(names, facenet_faces(network, batch), ours.detect(batch), strict=True):
            distance, score = nearest(expected, faces)
            distances.append(distance)
            scores.append(score)
            count = int((nearest(faces, expected)[0] > TIE).sum())
            extra += count
            if count or (distance > LIMITS[-1]).any():
                differing.append(
                    f"{name}: facenet-pytorch {expected!r}, sfplus {faces!r}, {distance.round(2).tolist()}"
                )
    distance, score = np.concatenate(distances), np.concatenate(scores)
    ties = (distance > LIMITS[-1]) & (distance < TIE) & (score < 1e-6)
    print(f"{root}: {photos} photos of {len(sizes)} sizes, {len(distance)} faces of facenet-pytorch", flush=True)
    for limit in LIMITS:
        print(f"  within {limit} px  {(distance <= limit).sum()} faces, {100 * (distance <= limit).mean():.3f} %")
    print(f"  {ties.sum()} further faces have one of the same score (to 1e-6) within {TIE} px: rounding decides")
    print(
        f"  {extra} faces only in sfplus; scores differ by at most {score[distance <= LIMITS[-1]].max(initial=0):.1g}"
    )
    print("  photos that differ:\n" + "\n".join(f"    {line}" for line in differing[:MAX_PRINTED]), flush=True)


def main() -> None:
    if sys.argv[1:]:
        for folder in sys.argv[1:]:
            compare(Path(folder), 1)
    elif shared := os.environ.get("SFPLUS_SHARED_DATA"):
        for part in ("lfw/photos", "train_photos"):
            compare(Path(shared) / part, 40)
    else:
        print("no photos: give folders, or set SFPLUS_SHARED_DATA")


if __name__ == "__main__":
    main()
