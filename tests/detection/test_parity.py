"""parity="matlab" against a slow transcription of the original, parity="facenet-pytorch" against the package."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from skimage import data

from sfplus.detection import Detector
from sfplus.detection.mtcnn import Parity
from sfplus.errors import UsageError
from sfplus.images import list_photos, read_photo

ASTRONAUT = data.astronaut()
PHOTO = np.ascontiguousarray(ASTRONAUT[20:170, 130:270])
TWO = np.concatenate([PHOTO, PHOTO[::-1, ::-1], PHOTO[:, ::-1]], 1)  # one is upside down


def coefficients(before: int, after: int) -> np.ndarray:
    """The matrix (after, before) of imResampleMex.cpp's resampleCoef."""
    matrix, scale = np.zeros((after, before)), after / before
    for row in range(after):
        if before > after:
            start = row / scale
            stop = start + 1 / scale
            first, last = math.ceil(start), int(stop)
            for column in range(first - 1, last + 1):
                weight = scale
                if column == first - 1:
                    weight = (first - start) * scale
                elif column == last:
                    weight = (stop - last) * scale
                if weight > 1e-3 * scale and column >= 0:
                    matrix[row, column] = weight
            matrix[row] /= max(1, matrix[row].sum())
        else:
            middle = (0.5 + row) / scale - 0.5
            column = math.floor(middle)
            weight = 1 - (middle - column) if 0 <= column < before - 1 else 1
            column = min(max(column, 0), before - 1)
            matrix[row, column] += weight
            if weight < 1:
                matrix[row, column + 1] += 1 - weight
    return matrix


def resample(picture: np.ndarray, height: int, width: int) -> torch.Tensor:
    rows, columns = coefficients(picture.shape[0], height), coefficients(picture.shape[1], width)
    seen = (np.einsum("yh,hwc,xw->cyx", rows, picture, columns) - 127.5) * 0.0078125
    return torch.from_numpy(seen).float()[None]


def nms(boxes: np.ndarray, threshold: float, kind: str) -> list[int]:
    """nms.m; boxes are rows of x1 y1 x2 y2 score."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    left, pick = list(np.argsort(boxes[:, 4], kind="stable")), []
    while left:
        i = left.pop()
        pick.append(int(i))
        rest = []
        for j in left:
            w = max(0, min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]) + 1)
            h = max(0, min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]) + 1)
            base = min(area[i], area[j]) if kind == "Min" else area[i] + area[j] - w * h
            if w * h / base <= threshold:
                rest.append(j)
        left = rest
    return pick


def rerec(boxes: np.ndarray) -> np.ndarray:
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = np.maximum(w, h)
    boxes = boxes.copy()
    boxes[:, 0] += w * 0.5 - side * 0.5
    boxes[:, 1] += h * 0.5 - side * 0.5
    boxes[:, 2:4] = boxes[:, :2] + side[:, None]
    boxes[:, :4] = np.fix(boxes[:, :4])
    return boxes


def bbreg(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    w, h = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    moved = boxes.copy()
    moved[:, :4] += shifts * np.stack([w, h, w, h], 1)
    return moved


def crops(photo: np.ndarray, boxes: np.ndarray, side: int) -> torch.Tensor:
    """pad.m and imResample: what lies outside the photo is 0 before the mean is taken away."""
    cut = []
    for x1, y1, x2, y2 in boxes[:, :4].astype(int):
        padded = np.zeros((y2 - y1 + 1, x2 - x1 + 1, 3))
        for y in range(max(y1, 1), min(y2, photo.shape[0]) + 1):
            x, ex = max(x1, 1), min(x2, photo.shape[1])
            padded[y - y1, x - x1 : ex - x1 + 1] = photo[y - 1, x - 1 : ex]
        cut.append(resample(padded, side, side))
    return torch.cat(cut)


@torch.inference_mode()
def original(photo: np.ndarray, min_face: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """detect_face.m of MTCNN v1 with 1-based boxes: rows of x1 y1 x2 y2 score, and landmarks (N, 5, 2)."""
    height, width = photo.shape[:2]
    m, found = 12 / min_face, [np.empty((0, 9))]
    smallest, level = min(height, width) * m, 0
    while smallest >= 12:
        scale = m * factor**level
        shifts, scores = PNet()(resample(photo, math.ceil(height * scale), math.ceil(width * scale)))
        rows = []
        for y, x in np.argwhere(scores[0, 1].numpy() >= 0.6):  # MATLAB's find on the transposed map: row by row
            corner = [np.fix((2 * at + 1) / scale) for at in (x, y)] + [np.fix((2 * at + 12) / scale) for at in (x, y)]
            rows.append([*corner, float(scores[0, 1, y, x]), *shifts[0, :, y, x].tolist()])
        boxes = np.array(rows).reshape(-1, 9)
        found.append(boxes[nms(boxes, 0.5, "Union")])
        smallest, level = smallest * factor, level + 1
    boxes = np.concatenate(found)
    boxes = boxes[nms(boxes, 0.7, "Union")]
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    boxes[:, :4] += boxes[:, 5:] * np.stack([w, h, w, h], 1)
    boxes = rerec(boxes[:, :5])
    shift, score = (part.numpy() for part in RNet()(crops(photo, boxes, 24)))
    keep = score[:, 1] > 0.7
    boxes, shift = np.hstack([boxes[keep, :4], score[keep, 1:]]), shift[keep]
    pick = nms(boxes, 0.7, "Union")
    boxes = rerec(bbreg(boxes[pick], shift[pick]))
    seen = crops(photo, boxes, 48)
    shift, points, score = (part.numpy() for part in ONet()(seen))
    _, other, _ = (part.numpy() for part in ONet()(seen.flip(3)))
    order = [1, 0, 2, 4, 3]
    points = np.hstack([points[:, :5] + 1 - other[:, :5][:, order], points[:, 5:] + other[:, 5:][:, order]]) / 2
    keep = score[:, 1] > 0.9
    boxes, shift, points = np.hstack([boxes[keep, :4], score[keep, 1:]]), shift[keep], points[keep]
    w, h = (boxes[:, [2]] - boxes[:, [0]] + 1), (boxes[:, [3]] - boxes[:, [1]] + 1)
    landmarks = np.stack([w * points[:, :5] + boxes[:, [0]] - 1, h * points[:, 5:] + boxes[:, [1]] - 1], 2)
    boxes = bbreg(boxes, shift)
    pick = nms(boxes, 0.7, "Min")
    return boxes[pick], landmarks[pick]


def check_matlab(photo: np.ndarray, min_face: int, factor: float) -> int:
    boxes, landmarks = original(photo, min_face, factor)
    (faces,) = Detector(min_face, factor, device="cpu", parity="matlab").detect([photo])
    assert len(faces) == len(boxes)
    order = np.argsort(-boxes[:, 4], kind="stable")
    np.testing.assert_allclose(faces.boxes + 1, boxes[order, :4], atol=2e-3)
    np.testing.assert_allclose(faces.landmarks + 1, landmarks[order], atol=2e-3)
    np.testing.assert_allclose(faces.scores, boxes[order, 4], atol=2e-5)
    return len(boxes)


@pytest.mark.parametrize(
    ("photo", "min_face", "factor", "faces"),
    [(PHOTO, 30, 0.7, 1), (TWO, 40, 0.7, 2), (PHOTO[:, 30:], 20, 0.6, 1), (PHOTO[::2, ::2], 24, 0.8, 1)],
    ids=["whole", "three", "from the left", "small"],
)
def test_matlab_is_the_original_cascade(photo: np.ndarray, min_face: int, factor: float, faces: int) -> None:
    assert check_matlab(np.ascontiguousarray(photo), min_face, factor) >= faces


def test_matlab_differs_from_facenet_pytorch() -> None:
    """Else the test above would not show anything."""
    photo = ASTRONAUT[:210, 110:330]
    ours, original = (Detector(device="cpu", parity=parity).detect([photo])[0] for parity in get_args(Parity)[::2])
    assert len(ours) == len(original) == 1 and 0.01 < abs(ours.landmarks - original.landmarks).max() < 3


def test_facenet_pytorch_is_itself() -> None:
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True)
    boxes, scores, landmarks = network.detect(TWO, landmarks=True)
    (faces,) = Detector(device="cpu", parity="facenet-pytorch").detect([TWO])
    order = np.argsort(-scores.astype(float), kind="stable")
    np.testing.assert_allclose(faces.boxes, boxes[order].astype(float), atol=0.01)
    np.testing.assert_allclose(faces.landmarks, landmarks[order].astype(float), atol=0.01)
    np.testing.assert_allclose(faces.scores, scores[order].astype(float), atol=1e-4)


def test_unknown_parity() -> None:
    with pytest.raises(UsageError, match=r"'caffe'.*use none, facenet-pytorch, matlab"):
        Detector(device="cpu", parity="caffe")  # type: ignore[arg-type]


@pytest.mark.slow
def test_matlab_on_real_photos(shared_data: Path) -> None:
    root = shared_data / "lfw" / "photos"
    photos = [read_photo(root / name) for name in list_photos(root)[::4000]]
    assert sum(check_matlab(photo, 20, 0.85) for photo in photos) >= len(photos)


@pytest.mark.slow
def test_facenet_pytorch_on_real_photos(shared_data: Path) -> None:
    """A sample of two sets, of one size and of many; tests/benchmarks/parity.py does all.

    Where a face has several candidates of one score, 1 to the last bit but one, rounding decides which one stays: with
    facenet-pytorch too, which answers one of these photos otherwise when it is in a batch.
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
            away = np.hstack([abs(faces.boxes - box), abs(faces.landmarks - landmarks[index]).reshape(-1, 10)]).max(1)
            best = int(away.argmin())
            near += away[best] < 0.5 and abs(faces.scores[best] - scores[index]) < 1e-3
            tied += 0.5 <= away[best] < 5 and abs(faces.scores[best] - scores[index]) < 1e-6
    assert total > 380 and near >= 0.99 * total and near + tied >= 0.999 * total
