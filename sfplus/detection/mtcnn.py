"""MTCNN (Zhang et al., IEEE SPL 23-10, 2016): a cascade of three small networks, on many photos of any sizes at once.

The networks and their weights are facenet-pytorch's, the cascade around them is written anew. Its arithmetic follows
SphereFace's preprocess/code/face_detect_demo.m with MTCNN v1 and facenet-pytorch's models/utils/detect_face.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import batched_nms

from sfplus.detection.faces import Faces
from sfplus.detection.pyramid import CELL, STRIDE, Canvas, Integrals, Pyramid
from sfplus.device import Device, choose_device
from sfplus.errors import DependencyError, PhotoError, UsageError
from sfplus.images import read_photo

Photo = npt.NDArray[np.uint8]

_REMEDY = "run: pip install --no-deps facenet-pytorch==2.6.0"
_BLOCK = 512  # boxes that the last suppression compares at a time
_MIRRORED = [1, 0, 2, 4, 3]  # the landmarks' order in a mirrored face


class Detector:
    """Finds faces and their five landmarks.

    The answers for a photo do not depend on the other photos of a call, nor on their order, to the last bit on the same
    machine with the same number of threads: the networks always run on batches of one fixed size. (Tested on the CPU.)
    Memory is bounded: one photo of 40 megapixels takes 1.8 GB at its peak, libraries included.

    Coordinates: MTCNN counts pixels from 1, as MATLAB does, and facenet-pytorch returns those numbers. Here they are
    0-based pixel centres: facenet-pytorch's boxes and landmarks minus 1. That this is the true offset shows on 120
    photos of LFW: against their mirror images, facenet-pytorch's landmarks lie (1.02 +- 0.03) px too far right; against
    the photos enlarged three times, (0.97 +- 0.07) px too far right and (1.10 +- 0.09) px too far down.

    Args:
        min_face: side of the smallest face to be found, pixels.
        factor: scale of each level of the image pyramid relative to the one before.
        thresholds: least scores after the first, second and third network.
        mirror_landmarks: run the third network on the mirrored face too and average the landmarks, as the original
            MATLAB code does (facenet-pytorch does not).
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or a `Device`.

    Raises:
        UsageError: a setting is out of range.
        DeviceError: the machine has no such device.
        DependencyError: facenet-pytorch is missing or broken.
    """

    def __init__(
        self,
        min_face: int = 20,
        factor: float = 0.85,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9),
        mirror_landmarks: bool = True,
        device: str | Device = "auto",
    ) -> None:
        if not min_face >= CELL:
            raise UsageError(f"expected {CELL} or more pixels, got {min_face}", where="min_face")
        if not 0 < factor < 1:
            raise UsageError(f"expected a number between 0 and 1, got {factor}", where="factor")
        if len(thresholds) != 3 or not all(0 <= threshold <= 1 for threshold in thresholds):
            raise UsageError(f"expected three numbers from 0 to 1, got {thresholds}", where="thresholds")
        self.thresholds = tuple(thresholds)
        self.mirror_landmarks = mirror_landmarks
        self.device = choose_device(device)
        self._pyramid = Pyramid(min_face, factor, self.device)
        networks: list[Any] = [self.device.place(network) for network in _networks()]
        self._pnet, self._rnet, self._onet = networks
        # Fixed batch sizes: pixels of canvases, and candidates of the second and third network. On the CPU one canvas
        # at a time stays in the cache.
        self._sizes = (1 << 21, 1024, 256) if self.device.is_cuda else (0, 32, 8)
        self._chunk = 1 << (24 if self.device.is_cuda else 22)  # pixels of photos that are worked on together

    def detect(self, photos: Sequence[Photo | Path]) -> list[Faces]:
        """Find the faces of photos of any sizes.

        Args:
            photos: uint8 RGB (H, W, 3) arrays, or paths, which are read a few at a time.

        Returns:
            One `Faces` per photo, in the order of the photos.

        Raises:
            PhotoError: a path cannot be read, or an array is no photo.
        """
        found: list[Faces] = []
        with torch.inference_mode(), torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=False):
            for chunk in self._chunks(photos):
                found += self._detect(chunk)
        return found

    def _chunks(self, photos: Sequence[Photo | Path]) -> Iterator[list[Photo]]:
        chunk: list[Photo] = []
        pixels = 0
        for index, given in enumerate(photos):
            photo = given if isinstance(given, np.ndarray) else read_photo(Path(given))
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
                reason = f"expected uint8 RGB of shape (H, W, 3), got {photo.dtype} {photo.shape}"
                raise PhotoError(reason, where=f"photo {index}", remedy="read it with sfplus.images.read_photo")
            if chunk and pixels + photo.size // 3 > self._chunk:
                yield chunk
                chunk, pixels = [], 0
            chunk.append(photo)
            pixels += photo.size // 3
        if chunk:
            yield chunk

    def _detect(self, photos: list[Photo]) -> list[Faces]:
        integrals = Integrals(photos, self.device)
        owners, boxes = self._propose(integrals, photos)
        owners, boxes = self._refine(integrals, owners, boxes)
        owners, boxes, scores, landmarks = self._output(integrals, owners, boxes)
        arrays = [tensor.cpu().numpy() for tensor in (boxes - 1, scores, landmarks - 1)]
        ends = np.searchsorted(owners.cpu().numpy(), np.arange(len(photos) + 1))
        return [Faces(*(array[a:b] for array in arrays)) for a, b in itertools.pairwise(ends)]

    def _propose(self, integrals: Integrals, photos: list[Photo]) -> tuple[torch.Tensor, torch.Tensor]:
        """First network: look everywhere, at every size. Gives owners (N,) and square boxes (N, 4)."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, photo in enumerate(photos):
            groups.setdefault(photo.shape[:2], []).append(index)
        none = torch.empty(0, device=self.device.torch)
        parts: list[tuple[torch.Tensor, ...]] = [(*[none.long()] * 3, none.view(0, 4), none, none.view(0, 4))]
        for (height, width), members in groups.items():
            scales = torch.tensor(self._pyramid.plan(height, width).scales, device=self.device.torch)
            for canvas in self._pyramid.canvases(height, width):
                batch = max(1, self._sizes[0] // (canvas.height * canvas.width))
                for start in range(0, len(members), batch):
                    some = members[start : start + batch]
                    padded = torch.tensor(some + some[-1:] * (batch - len(some)), device=self.device.torch)
                    parts.append(self._search(integrals.canvas(padded, canvas), canvas, padded, scales, len(some)))
        found = [torch.cat(part) for part in zip(*parts, strict=True)]
        order = (found[0] * 2**40 + found[1]).argsort()
        owners, _, levels, boxes, scores, shifts = (part[order] for part in found)
        keep = _suppress(boxes, scores, owners * 2**20 + levels, 0.5)
        keep = keep[_suppress(boxes[keep], scores[keep], owners[keep], 0.7)]
        owners, boxes, shifts = owners[keep], boxes[keep], shifts[keep]
        return owners, _square(boxes + shifts * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2))

    def _search(
        self, pixels: torch.Tensor, canvas: Canvas, owners: torch.Tensor, scales: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, ...]:
        """P-Net on canvases (B, 3, h, w): owners, ranks, levels, boxes, scores, shifts of cells that may be faces."""
        net = self._pnet
        maps = net.prelu1(net.conv1(pixels))
        for rows, columns in canvas.walls:
            maps[:, :, rows, columns] = -torch.inf
        maps = torch.maximum(maps[:, :, ::2], maps[:, :, 1::2])
        maps = torch.maximum(maps[..., ::2], maps[..., 1::2])
        maps = net.prelu3(net.conv3(net.prelu2(net.conv2(maps))))
        scores = net.softmax4_1(net.conv4_1(maps))[:count, 1]
        member, y, x = ((scores >= self.thresholds[0]) & (canvas.cells[1] >= 0)).nonzero(as_tuple=True)
        rank, level, row, column = canvas.cells[:, y, x]
        corner = torch.stack([column, row], 1).float() * STRIDE
        scale = scales[level, None]
        boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + CELL) / scale).floor()], 1)
        return owners[member], rank, level, boxes, scores[member, y, x], net.conv4_2(maps)[member, :, y, x]

    def _refine(
        self, integrals: Integrals, owners: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Second network: drop most candidates, move the others."""
        owners, boxes, (shifts, scores) = self._judge(self._rnet, integrals, owners, boxes, 24, self._sizes[1])
        keep = (scores[:, 1] > self.thresholds[1]).nonzero()[:, 0]
        keep = keep[_suppress(boxes[keep], scores[keep, 1], owners[keep], 0.7)]
        return owners[keep], _square(_shift(boxes[keep], shifts[keep]))

    def _output(
        self, integrals: Integrals, owners: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Third network: owners, boxes, scores, landmarks (N, 5, 2)."""
        owners, boxes, (shifts, points, scores) = self._judge(self._onet, integrals, owners, boxes, 48, self._sizes[2])
        keep = (scores[:, 1] > self.thresholds[2]).nonzero()[:, 0]
        moved = _shift(boxes, shifts)
        keep = keep[_suppress_nested(moved[keep], scores[keep, 1], owners[keep])]
        owners, boxes, moved, scores, points = (part[keep] for part in (owners, boxes, moved, scores[:, 1], points))
        points = points.view(-1, 2, 5)
        if self.mirror_landmarks and len(owners):
            _, _, (_, other, _) = self._judge(self._onet, integrals, owners, boxes, 48, self._sizes[2], mirrored=True)
            other = other.view(-1, 2, 5)[:, :, _MIRRORED]
            points = (points + torch.stack([1 - other[:, 0], other[:, 1]], 1)) / 2
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = (sides[:, :, None] * points + boxes[:, :2, None] - 1).transpose(1, 2)
        return owners, moved, scores, landmarks

    def _judge(
        self,
        network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        integrals: Integrals,
        owners: torch.Tensor,
        boxes: torch.Tensor,
        side: int,
        batch: int,
        mirrored: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Run a network on the candidates that lie in their photo: these, and its answers. Batches are always full."""
        parts = integrals.clip(owners, boxes)
        inside = (parts[:, 2:] > parts[:, :2]).all(1)
        owners, boxes, parts = owners[inside], boxes[inside], parts[inside]
        answers = []
        for start in range(0, max(1, len(owners)), batch):
            some = torch.arange(start, start + batch, device=owners.device).clamp_(max=max(0, len(owners) - 1))
            if len(owners):
                answers.append(network(integrals.cut(owners[some], parts[some], side, mirrored)))
            else:
                answers.append(network(torch.zeros(batch, 3, side, side, device=owners.device)))
        return owners, boxes, [torch.cat(answer)[: len(owners)] for answer in zip(*answers, strict=True)]


def _networks() -> tuple[Any, Any, Any]:
    try:
        from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

        return PNet().eval(), RNet().eval(), ONet().eval()
    except ModuleNotFoundError as error:
        missing = "facenet-pytorch" if (error.name or "").startswith("facenet_pytorch") else error.name
        raise DependencyError(f"the detector needs {missing}, which is not installed", remedy=_REMEDY) from error
    except Exception as error:
        raise DependencyError(f"facenet-pytorch is installed but broken ({error})", remedy=_REMEDY) from error


def _suppress(boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float) -> torch.Tensor:
    """Non-maximum suppression within groups, by intersection over union.

    In float64 on a grid of 2^-20 pixels the offsets that separate the groups change nothing, not even the last bit.
    Scores are often equal (1 to the last bit); then the order of the candidates decides, as in facenet-pytorch.

    Returns:
        int64 indices that are kept: group by group, highest score first.
    """
    if not len(boxes):
        return groups
    exact = (boxes.double() * 2**20).round() / 2**20
    _, numbers = torch.unique(groups, return_inverse=True)
    kept: torch.Tensor = batched_nms(exact - exact.min(), scores.double(), numbers, threshold).sort().values
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return kept[groups[kept].argsort(stable=True)]


def _suppress_nested(boxes: torch.Tensor, scores: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Non-maximum suppression within photos, by intersection over the smaller box, threshold 0.7 (nms.m, 'Min').

    Returns:
        int64 indices that are kept: photo by photo, highest score first; of equal scores the last one, as in nms.m.
    """
    order = scores.flip(0).argsort(descending=True, stable=True)
    order = len(order) - 1 - order
    order = order[owners[order].argsort(stable=True)]
    sorted_boxes, sorted_owners = boxes[order].double().cpu().numpy(), owners[order].cpu().numpy()
    starts = np.flatnonzero(np.diff(sorted_owners, prepend=-1, append=-1))
    kept = [_not_nested(sorted_boxes[a:b]) for a, b in itertools.pairwise(starts)]
    return order[torch.from_numpy(np.concatenate([np.empty(0, bool), *kept])).to(order.device)]


def _not_nested(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which boxes of one photo, best first, greedy suppression keeps; in blocks, so that crowds fit into memory."""
    keep = np.ones(len(boxes), bool)
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        free = ~_covers(boxes[:start][keep[:start]], block).any(axis=0, keepdims=True)
        within, now = np.triu(_covers(block, block), 1), free
        while not np.array_equal(now, after := free & ~(within & now.T).any(axis=0, keepdims=True)):
            now = after
        keep[start : start + _BLOCK] = np.ravel(now)
    return keep


def _covers(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Pairs (N, M) of boxes that share more than 0.7 of the smaller one; sides are counted inclusively."""
    first = np.maximum(some[:, None, :2], others[None, :, :2])
    common = (np.minimum(some[:, None, 2:], others[None, :, 2:]) + 1 - first).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (some, others)]
    return np.asarray(common > 0.7 * np.minimum(areas[0][:, None], areas[1]))


def _shift(boxes: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Bounding-box regression (bbreg.m): shifts are fractions of the sides, counted inclusively."""
    return boxes + shifts * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)


def _square(boxes: torch.Tensor) -> torch.Tensor:
    """Squares around the same centres (rerec.m)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.amax(1, keepdim=True)
    first = boxes[:, :2] + sides / 2 - longest / 2
    return torch.cat([first, first + longest], 1)
