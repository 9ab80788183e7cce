"""parity="facenet-pytorch" against the package, face by face; prints what differs.

Of all 8,912 faces in LFW 25 differ by more than 0.5 px. For 18 of these facenet-pytorch has other answers itself, alone
or in another batch, and 24 of ours are among them: candidates of equal scores, of which rounding chooses one.

All photos of the folders given are compared, or every 40th of SFPLUS_SHARED_DATA (all take about half an hour), those
of one size in batches of 16, as facenet-pytorch wants them. Run: python tests/benchmarks/parity.py [FOLDER ...]
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
SHOWN = 30
Photo = np.ndarray


def batches(root: Path, step: int) -> Iterator[tuple[list[str], list[Photo]]]:
    """Photos in order, in batches of at most 16 of one size."""
    names = list_photos(root)[::step]
    photos = zip(names, prefetch_map(lambda name: read_photo(root / name), names), strict=True)
    for _, same in groupby(photos, lambda item: item[1].shape):
        while batch := list(islice(same, 16)):
            yield [name for name, _ in batch], [photo for _, photo in batch]


def theirs(network: MTCNN, photos: list[Photo]) -> list[Faces]:
    found = zip(*network.detect(np.stack(photos), landmarks=True), strict=True)
    return [
        Faces.empty() if boxes is None else Faces(*(np.array(part, np.float32) for part in (boxes, scores, landmarks)))
        for boxes, scores, landmarks in found
    ]


def nearest(some: Faces, others: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Of each face, the largest difference of a coordinate from the nearest of the others, pixels, and of the score."""
    if not len(others):
        return np.full(len(some), np.inf), np.full(len(some), np.inf)
    numbers = [np.hstack([faces.boxes, faces.landmarks.reshape(-1, 10)]).astype(float) for faces in (some, others)]
    away = abs(numbers[0][:, None] - numbers[1]).max(2)
    return away.min(1), abs(some.scores - others.scores[away.argmin(1)])


def compare(root: Path, step: int) -> None:
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True, device="cpu")
    ours = Detector(device="cpu", parity="facenet-pytorch")
    photos, sizes, away, scores, extra, differing = 0, set(), [np.empty(0)], [np.empty(0)], 0, []
    for names, batch in batches(root, step):
        photos += len(batch)
        sizes.add(batch[0].shape)
        for name, a, b in zip(names, theirs(network, batch), ours.detect(batch), strict=True):
            for found, all_ in zip(nearest(a, b), (away, scores), strict=True):
                all_.append(found)
            more = int((nearest(b, a)[0] > TIE).sum())
            extra += more
            if more or (away[-1] > LIMITS[-1]).any():
                differing.append(f"{name}: theirs {a!r}, ours {b!r}, {away[-1].round(2).tolist()}")
    far, score = np.concatenate(away), np.concatenate(scores)
    ties = (far > LIMITS[-1]) & (far < TIE) & (score < 1e-6)
    print(f"{root}: {photos} photos of {len(sizes)} sizes, {len(far)} faces of facenet-pytorch", flush=True)
    for limit in LIMITS:
        print(f"  within {limit} px  {(far <= limit).sum()} faces, {100 * (far <= limit).mean():.3f} %")
    print(f"  {ties.sum()} of the others have one of the same score (to 1e-6) within {TIE} px: rounding decides")
    print(f"  {extra} faces only here; scores differ by {score[far <= LIMITS[-1]].max(initial=0):.1g} at most")
    print("  photos that differ:\n" + "\n".join(f"    {line}" for line in differing[:SHOWN]), flush=True)


def main() -> None:
    if sys.argv[1:]:
        for word in sys.argv[1:]:
            compare(Path(word), 1)
    elif shared := os.environ.get("SFPLUS_SHARED_DATA"):
        for part in ("lfw/photos", "train_photos"):
            compare(Path(shared) / part, 40)
    else:
        print("no photos: give folders, or set SFPLUS_SHARED_DATA")


if __name__ == "__main__":
    main()
