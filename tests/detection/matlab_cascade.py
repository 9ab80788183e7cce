"""A slow transcription of the original MATLAB cascade (MTCNN v1, detect_face.m), the reference of the tests."""

from __future__ import annotations

import math

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet


def coefficients(before: int, after: int) -> np.ndarray:
    """Return the matrix (after, before) of imResampleMex.cpp, resampleCoef."""
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


def resample(image: np.ndarray, height: int, width: int) -> torch.Tensor:
    rows, columns = coefficients(image.shape[0], height), coefficients(image.shape[1], width)
    resampled = (np.einsum("yh,hwc,xw->cyx", rows, image, columns) - 127.5) * 0.0078125
    return torch.from_numpy(resampled).float()[None]


def nms(boxes: np.ndarray, threshold: float, kind: str) -> list[int]:
    """Suppress boxes as nms.m does; boxes are rows of x1 y1 x2 y2 score."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    remaining, pick = list(np.argsort(boxes[:, 4], kind="stable")), []
    while remaining:
        i = remaining.pop()
        pick.append(int(i))
        kept = []
        for j in remaining:
            w = max(0, min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]) + 1)
            h = max(0, min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]) + 1)
            base = min(area[i], area[j]) if kind == "Min" else area[i] + area[j] - w * h
            if w * h / base <= threshold:
                kept.append(j)
        remaining = kept
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
    """Cut and resize boxes as pad.m and imResample do; pixels outside the photo are 0 before normalisation."""
    cut = []
    for x1, y1, x2, y2 in boxes[:, :4].astype(int):
        padded = np.zeros((y2 - y1 + 1, x2 - x1 + 1, 3))
        for y in range(max(y1, 1), min(y2, photo.shape[0]) + 1):
            x, ex = max(x1, 1), min(x2, photo.shape[1])
            padded[y - y1, x - x1 : ex - x1 + 1] = photo[y - 1, x - 1 : ex]
        cut.append(resample(padded, side, side))
    return torch.cat(cut)


@torch.inference_mode()
def detect_face(photo: np.ndarray, min_face: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return 1-based boxes, rows of x1 y1 x2 y2 score, and landmarks (N, 5, 2), as detect_face.m does."""
    height, width = photo.shape[:2]
    m, levels = 12 / min_face, [np.empty((0, 9))]
    smallest, level = min(height, width) * m, 0
    while smallest >= 12:
        scale = m * factor**level
        shifts, scores = PNet()(resample(photo, math.ceil(height * scale), math.ceil(width * scale)))
        rows = []
        for y, x in np.argwhere(scores[0, 1].numpy() >= 0.6):  # MATLAB's find on the transposed map: row by row
            corner = [np.fix((2 * at + 1) / scale) for at in (x, y)] + [np.fix((2 * at + 12) / scale) for at in (x, y)]
            rows.append([*corner, float(scores[0, 1, y, x]), *shifts[0, :, y, x].tolist()])
        boxes = np.array(rows).reshape(-1, 9)
        levels.append(boxes[nms(boxes, 0.5, "Union")])
        smallest, level = smallest * factor, level + 1
    boxes = np.concatenate(levels)
    boxes = boxes[nms(boxes, 0.7, "Union")]
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    boxes[:, :4] += boxes[:, 5:] * np.stack([w, h, w, h], 1)
    boxes = rerec(boxes[:, :5])
    shift, score = (part.numpy() for part in RNet()(crops(photo, boxes, 24)))
    keep = score[:, 1] > 0.7
    boxes, shift = np.hstack([boxes[keep, :4], score[keep, 1:]]), shift[keep]
    pick = nms(boxes, 0.7, "Union")
    boxes = rerec(bbreg(boxes[pick], shift[pick]))
    inputs = crops(photo, boxes, 48)
    shift, points, score = (part.numpy() for part in ONet()(inputs))
    _, mirrored, _ = (part.numpy() for part in ONet()(inputs.flip(3)))
    order = [1, 0, 2, 4, 3]
    points = np.hstack([points[:, :5] + 1 - mirrored[:, :5][:, order], points[:, 5:] + mirrored[:, 5:][:, order]]) / 2
    keep = score[:, 1] > 0.9
    boxes, shift, points = np.hstack([boxes[keep, :4], score[keep, 1:]]), shift[keep], points[keep]
    w, h = (boxes[:, [2]] - boxes[:, [0]] + 1), (boxes[:, [3]] - boxes[:, [1]] + 1)
    landmarks = np.stack([w * points[:, :5] + boxes[:, [0]] - 1, h * points[:, 5:] + boxes[:, [1]] - 1], 2)
    boxes = bbreg(boxes, shift)
    pick = nms(boxes, 0.7, "Min")
    return boxes[pick], landmarks[pick]
