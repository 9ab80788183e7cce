"""The detector with parity="matlab" and parity="facenet-pytorch" against the originals."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from facenet_pytorch import MTCNN
from matlab_cascade import detect_face
from skimage import data
from slow_cases import slow

from sfplus.detection import Detector
from sfplus.detection.mtcnn import Parity
from sfplus.errors import UsageError
from sfplus.images import list_photos, read_photo

ASTRONAUT = data.astronaut()
PHOTO = np.ascontiguousarray(ASTRONAUT[20:170, 130:270])
THREE = np.concatenate([PHOTO, PHOTO[::-1, ::-1], PHOTO[:, ::-1]], 1)  # the middle one is upside down


def check_matlab(photo: np.ndarray, min_face: int, factor: float) -> int:
    boxes, landmarks = detect_face(photo, min_face, factor)
    (faces,) = Detector(min_face, factor, device="cpu", parity="matlab").detect([photo])
    assert len(faces) == len(boxes)
    order = np.argsort(-boxes[:, 4], kind="stable")
    np.testing.assert_allclose(faces.boxes + 1, boxes[order, :4], atol=2e-3)
    np.testing.assert_allclose(faces.landmarks + 1, landmarks[order], atol=2e-3)
    np.testing.assert_allclose(faces.scores, boxes[order, 4], atol=2e-5)
    return len(boxes)


@pytest.mark.parametrize(
    ("photo", "min_face", "factor", "faces"),
    [
        slow(PHOTO, 30, 0.7, 1, id="whole"),
        slow(THREE, 40, 0.7, 2, id="three"),
        slow(PHOTO[:, 30:], 20, 0.6, 1, id="from the left"),
        pytest.param(PHOTO[::2, ::2], 24, 0.8, 1, id="small"),
    ],
)
def test_matlab_parity_is_the_original_cascade(photo: np.ndarray, min_face: int, factor: float, faces: int) -> None:
    assert check_matlab(np.ascontiguousarray(photo), min_face, factor) >= faces


def test_matlab_parity_differs_from_facenet_pytorch() -> None:
    """Otherwise the comparison with the original would prove nothing."""
    photo = ASTRONAUT[:210, 110:330]
    ours, original = (Detector(device="cpu", parity=parity).detect([photo])[0] for parity in get_args(Parity)[::2])
    assert len(ours) == len(original) == 1 and 0.01 < abs(ours.landmarks - original.landmarks).max() < 3


def test_facenet_pytorch_parity_is_the_package() -> None:
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True)
    boxes, scores, landmarks = network.detect(THREE, landmarks=True)
    (faces,) = Detector(device="cpu", parity="facenet-pytorch").detect([THREE])
    order = np.argsort(-scores.astype(float), kind="stable")
    np.testing.assert_allclose(faces.boxes, boxes[order].astype(float), atol=0.01)
    np.testing.assert_allclose(faces.landmarks, landmarks[order].astype(float), atol=0.01)
    np.testing.assert_allclose(faces.scores, scores[order].astype(float), atol=1e-4)


def test_an_unknown_parity_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'caffe'.*use none, facenet-pytorch, matlab"):
        Detector(device="cpu", parity="caffe")  # type: ignore[arg-type]


@pytest.mark.slow
def test_matlab_parity_on_real_photos(shared_data: Path) -> None:
    root = shared_data / "lfw" / "photos"
    photos = [read_photo(root / name) for name in list_photos(root)[::4000]]
    assert sum(check_matlab(photo, 20, 0.85) for photo in photos) >= len(photos)


@pytest.mark.slow
def test_facenet_pytorch_parity_on_real_photos(shared_data: Path) -> None:
    """Compare a sample of two sets, one with photos of many sizes; tests/benchmarks/parity.py compares all photos.

    If several candidates of a face have the same score, 1 to the last bit but one, rounding decides which one is kept.
    This also holds for facenet-pytorch, whose result for one of these photos changes in a batch.
    """
    paths = [
        path for part, step in (("lfw/photos", 40), ("train_photos", 60))
        for path in sorted((shared_data / part).glob("*/*.jpg"))[::step]
    ]  # fmt: skip
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True)
    near = tied = total = 0
    for path, faces in zip(paths, Detector(device="cpu", parity="facenet-pytorch").detect(paths), strict=True):
        boxes, scores, landmarks = network.detect(read_photo(path), landmarks=True)
        boxes = [] if boxes is None else boxes
        total += max(len(faces), len(boxes))
        for index, box in enumerate(boxes if len(faces) else []):
            distances = np.hstack(
                [abs(faces.boxes - box), abs(faces.landmarks - landmarks[index]).reshape(-1, 10)]
            ).max(1)
            best = int(distances.argmin())
            near += distances[best] < 0.5 and abs(faces.scores[best] - scores[index]) < 1e-3
            tied += 0.5 <= distances[best] < 5 and abs(faces.scores[best] - scores[index]) < 1e-6
    assert total > 380 and near >= 0.99 * total and near + tied >= 0.999 * total
