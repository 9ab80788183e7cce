"""MTCNN (Zhang et al., IEEE SPL 23-10, 2016): a cascade of three small networks, on many photos of any sizes at once.

The networks and their weights are facenet-pytorch's, the cascade around them is written anew. Its arithmetic follows
SphereFace's preprocess/code/face_detect_demo.m with MTCNN v1 and facenet-pytorch's models/utils/detect_face.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from sfplus.detection.faces import Faces
from sfplus.detection.imresample import ExactIntegrals
from sfplus.detection.networks import Networks
from sfplus.detection.pyramid import CELL, STRIDE, Canvas, Integrals, Pyramid
from sfplus.detection.suppression import suppress, suppress_nested
from sfplus.device import Device, choose_device
from sfplus.errors import PhotoError, UsageError
from sfplus.images import read_photo
from sfplus.io.prefetch import batch_by_size
from sfplus.io.threads import WorkerThreads, worker_threads

Photo = npt.NDArray[np.uint8]
Parity = Literal["none", "facenet-pytorch", "matlab"]
Judge = Callable[..., tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]]

_MIRRORED = [1, 0, 2, 4, 3]  # the landmarks' order in a mirrored face


class Job(NamedTuple):
    """One canvas of some photos of one size, in a batch of fixed size."""

    size: tuple[int, int]
    canvas: int  # which one of the photos' plan
    members: list[int]  # photos
    batch: int


class Detector:
    """Finds faces and their five landmarks.

    The answers for a photo do not depend on the other photos of a call, nor on their order, to the last bit on the same
    machine: the networks always run on batches of one fixed size, on the CPU each in one thread. (Tested on the CPU.)
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
        precision: of the networks' arithmetic, see `Device.autocast`; others than `float32` are faster on a GPU, and
            move boxes and landmarks by a pixel or so.
        parity: whose numbers are wanted. `none`: the best of both, 0-based: facenet-pytorch's arithmetic, which is
            the faster one, but candidates padded with black at the border, as in the original. `facenet-pytorch`: its
            numbers, 1-based, without the mirrored pass, candidates squeezed at the border. `matlab`: the arithmetic of
            the original cascade (boxes cut to whole pixels, inclusive sides, order of equal scores, imResample, crops
            padded with black), but 0-based: MATLAB's minus 1.

    Raises:
        UsageError: a setting is out of range, or the device lacks the precision.
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
        parity: Parity = "none",
        precision: str = "float32",
    ) -> None:
        if not min_face >= CELL:
            raise UsageError(f"expected {CELL} or more pixels, got {min_face}", where="min_face")
        if not 0 < factor < 1:
            raise UsageError(f"expected a number between 0 and 1, got {factor}", where="factor")
        if len(thresholds) != 3 or not all(0 <= threshold <= 1 for threshold in thresholds):
            raise UsageError(f"expected three numbers from 0 to 1, got {thresholds}", where="thresholds")
        if parity not in get_args(Parity):
            choice = ", ".join(get_args(Parity))
            raise UsageError(f"no way of counting is called '{parity}'", where="parity", remedy=f"use {choice}")
        self.thresholds = tuple(thresholds)
        self.mirror_landmarks = mirror_landmarks and parity != "facenet-pytorch"
        self.device = choose_device(device)
        self._first_pixel = 0 if parity == "facenet-pytorch" else 1
        self._matlab, self._squeeze = parity == "matlab", parity == "facenet-pytorch"
        self._pyramid = Pyramid(min_face, factor, self.device, self._matlab)
        self._networks = Networks(self.device, precision)
        # Fixed batch sizes: pixels of canvases, and candidates of the second and third network. On the CPU one canvas
        # at a time stays in the cache.
        self._sizes = (1 << 21, 1024, 256) if self.device.is_cuda else (0, 32, 12)
        self._chunk = 1 << (24 if self.device.is_cuda else 22)  # pixels of photos that are worked on together
        # A GPU is waited for a few times in a chunk, however many photos it holds: see `_search` and `suppress`.
        self._together = 1 << 23 if self.device.is_cuda else 0  # pixels of canvases

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
        flags = torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=False)
        count = 1 if self.device.is_cuda else torch.get_num_threads()  # a GPU works in parallel by itself
        with torch.inference_mode(), flags, worker_threads(count) as workers:
            for chunk in self._chunks(photos):
                found += workers.run(self._detect, chunk, workers)
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

    def _detect(self, photos: list[Photo], workers: WorkerThreads) -> list[Faces]:
        integrals = (ExactIntegrals if self._matlab else Integrals)(photos, self.device, self._squeeze)
        owners, boxes = self._propose(integrals, photos, workers)
        judge = functools.partial(self._judge, integrals, workers)
        owners, boxes = self._refine(judge, owners, boxes)
        owners, boxes, scores, landmarks = self._output(judge, owners, boxes)
        arrays = [tensor.cpu().numpy() for tensor in (boxes - self._first_pixel, scores, landmarks - self._first_pixel)]
        ends = np.searchsorted(owners.cpu().numpy(), np.arange(len(photos) + 1))
        return [Faces(*(array[a:b] for array in arrays)) for a, b in itertools.pairwise(ends)]

    def _propose(
        self, integrals: Integrals, photos: list[Photo], workers: WorkerThreads
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First network: look everywhere, at every size. Gives owners (N,) and square boxes (N, 4)."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, photo in enumerate(photos):
            groups.setdefault(photo.shape[:2], []).append(index)
        jobs: list[Job] = []
        for size, members in groups.items():
            for index, (height, width, _) in enumerate(self._pyramid.plan(*size).canvases):
                batch = max(1, self._sizes[0] // (height * width))
                jobs += [Job(size, index, members[i : i + batch], batch) for i in range(0, len(members), batch)]
        none = torch.empty(0, device=self.device.torch)
        parts: list[tuple[torch.Tensor, ...]] = [(*[none.long()] * 3, none.view(0, 4), none, none.view(0, 4))]
        together = (
            batch_by_size(jobs, self._pixels, self._together, 1 << 10) if self._together else ([job] for job in jobs)
        )
        parts += itertools.chain.from_iterable(workers.map(functools.partial(self._search, integrals), together))
        found = [torch.cat(part) for part in zip(*parts, strict=True)]
        step = -(-len(photos) // workers.count)
        thinned = workers.map(lambda first: self._thin(found, first, first + step), range(0, len(photos), step))
        owners, boxes = (torch.cat(part) for part in zip(*thinned, strict=True))
        return owners, boxes

    def _pixels(self, job: Job) -> int:
        height, width, _ = self._pyramid.plan(*job.size).canvases[job.canvas]
        return job.batch * height * width

    def _thin(self, found: list[torch.Tensor], first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what P-Net found in some photos, the best, moved: owners and square boxes."""
        some = ((found[0] >= first) & (found[0] < last)).nonzero()[:, 0]
        some = some[(found[0][some] * 2**40 + found[1][some]).argsort()]
        owners, _, levels, boxes, scores, shifts = (part[some] for part in found)
        keep = self._suppress(boxes, scores, owners * 2**20 + levels, 0.5)
        keep = keep[self._suppress(boxes[keep], scores[keep], owners[keep], 0.7)]
        owners, boxes, shifts = owners[keep], boxes[keep], shifts[keep]
        return owners, self._square(boxes + shifts * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2))

    def _search(self, integrals: Integrals, jobs: list[Job]) -> list[tuple[torch.Tensor, ...]]:
        """P-Net on some canvases; of each, of the cells that may be faces: owner, rank, level, box, score, shift.

        The device is waited for once for all canvases.
        """
        seen = []
        for job in jobs:
            canvas = self._pyramid.canvas(*job.size, job.canvas)
            members = job.members + job.members[-1:] * (job.batch - len(job.members))
            owners = self.device.put(torch.tensor(members))
            scores, features = self._networks.search(integrals.canvas(owners, canvas), canvas.walls)
            seen.append((canvas, owners, scores.flatten(1), features.flatten(1, 2)))
        marks = [
            ((scores >= self.thresholds[0]) & (canvas.cells[1].flatten() >= 0))[: len(job.members)].flatten()
            for job, (canvas, _, scores, _) in zip(jobs, seen, strict=True)
        ]
        chosen = torch.cat(marks).nonzero()[:, 0]
        ends = list(itertools.accumulate(map(len, marks), initial=0))
        cuts = torch.searchsorted(chosen, self.device.put(torch.tensor(ends))).tolist()
        return [
            self._describe(chosen[a:b] - start, *part)
            for part, start, (a, b) in zip(seen, ends, itertools.pairwise(cuts), strict=False)
        ]

    def _describe(
        self, chosen: torch.Tensor, canvas: Canvas, owners: torch.Tensor, scores: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """What `_search` gives for some cells of canvases of one kind."""
        member, cell = chosen // scores.shape[1], chosen % scores.shape[1]
        rank, level, row, column = canvas.cells.flatten(1)[:, cell].long()
        corner = torch.stack([column, row], 1) * STRIDE
        scale = canvas.scales[level, None] if self._matlab else canvas.scales[level, None].float()
        boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + CELL) / scale).floor()], 1).float()
        return owners[member], rank, level, boxes, scores[member, cell], self._networks.shift(features[member, cell])

    def _suppress(
        self, boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float
    ) -> torch.Tensor:
        return suppress(boxes, scores, groups, threshold, self._matlab, together=self._together > 0)

    def _refine(self, judge: Judge, owners: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Second network: drop most candidates, move the others."""
        owners, boxes, (scores, shifts) = judge(self._networks.refine, owners, boxes, 24, self._sizes[1])
        keep = (scores > self.thresholds[1]).nonzero()[:, 0]
        keep = keep[self._suppress(boxes[keep], scores[keep], owners[keep], 0.7)]
        return owners[keep], self._square(_shift(boxes[keep], shifts[keep]))

    def _output(
        self, judge: Judge, owners: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Third network: owners, boxes, scores, landmarks (N, 5, 2)."""
        network, side, batch = self._networks.output, 48, self._sizes[2]
        owners, boxes, (scores, shifts, points) = judge(network, owners, boxes, side, batch)
        keep = (scores > self.thresholds[2]).nonzero()[:, 0]
        moved = _shift(boxes, shifts)
        keep = keep[suppress_nested(moved[keep], scores[keep], owners[keep])]
        owners, boxes, moved, scores, points = (part[keep] for part in (owners, boxes, moved, scores, points))
        points = points.view(-1, 2, 5)
        if self.mirror_landmarks and len(owners):
            _, _, (_, _, other) = judge(network, owners, boxes, side, batch, mirrored=True)
            other = other.view(-1, 2, 5)[:, :, _MIRRORED]
            points = (points + torch.stack([1 - other[:, 0], other[:, 1]], 1)) / 2
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = (sides[:, :, None] * points + boxes[:, :2, None] - 1).transpose(1, 2)
        return owners, moved, scores, landmarks

    def _square(self, boxes: torch.Tensor) -> torch.Tensor:
        """Squares around the same centres (rerec.m)."""
        sides = boxes[:, 2:] - boxes[:, :2]
        longest = sides.amax(1, keepdim=True)
        first = boxes[:, :2] + sides / 2 - longest / 2
        squares = torch.cat([first, first + longest], 1)
        return squares.trunc() if self._matlab else squares

    def _judge(
        self,
        integrals: Integrals,
        workers: WorkerThreads,
        network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        owners: torch.Tensor,
        boxes: torch.Tensor,
        side: int,
        batch: int,
        mirrored: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Run a network on the candidates that lie in their photo: these, and its answers. Batches are always full."""
        parts = integrals.clip(owners, boxes)
        inside = (parts[:, 2:] > parts[:, :2]).all(1).nonzero()[:, 0]
        owners, boxes, parts = owners[inside], boxes[inside], parts[inside]

        def answer(start: int) -> tuple[torch.Tensor, ...]:
            some = torch.arange(start, start + batch, device=owners.device).clamp_(max=max(0, len(owners) - 1))
            if len(owners):
                return network(integrals.cut(owners[some], parts[some], side, mirrored))
            return network(torch.zeros(batch, 4, side, side, device=owners.device))

        answers = workers.map(answer, range(0, max(1, len(owners)), batch))
        return owners, boxes, [torch.cat(part)[: len(owners)] for part in zip(*answers, strict=True)]


def _shift(boxes: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Bounding-box regression (bbreg.m): shifts are fractions of the sides, counted inclusively."""
    return boxes + shifts * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
