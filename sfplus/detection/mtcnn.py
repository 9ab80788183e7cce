"""MTCNN (Zhang et al., IEEE SPL 23-10, 2016): a cascade of three small networks, on many photos of any sizes at once.

The networks and their weights are facenet-pytorch's; the cascade is new. Its arithmetic follows SphereFace's
preprocess/code/face_detect_demo.m with MTCNN v1, and facenet-pytorch's models/utils/detect_face.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sfplus.arithmetic import exact_arithmetic
from sfplus.detection.banded_imresample import BandedMatlabIntegralImages
from sfplus.detection.banded_integrals import BandedIntegralImages
from sfplus.detection.boxes import shift_boxes, to_squares
from sfplus.detection.canvas_batches import CanvasBatch, canvas_batches
from sfplus.detection.faces import Faces
from sfplus.detection.imresample import MatlabIntegralImages
from sfplus.detection.integral_images import IntegralImages
from sfplus.detection.interface import PhotoDetector
from sfplus.detection.mtcnn_networks import MtcnnNetworks
from sfplus.detection.pyramid import Canvas, Pyramid
from sfplus.detection.pyramid_plan import CELL, STRIDE
from sfplus.detection.sizes import sizes_for
from sfplus.detection.suppression import suppress, suppress_nested
from sfplus.device import Device, choose_device, memory_errors
from sfplus.errors import UsageError
from sfplus.images import Pixels
from sfplus.io.memory import return_freed_memory, reuse_freed_blocks
from sfplus.io.prefetch import batch_by_size
from sfplus.io.threads import WorkerPool, WorkerThreads, count_threads

Parity = Literal["none", "facenet-pytorch", "matlab"]
RunNetwork = Callable[..., list[Tensor]]  # `_run_network`, partly applied
Tensors = tuple[Tensor, ...]

# With parity matlab or not: those of all pixels, twice as large for MATLAB, and those that are computed in parts.
_INTEGRAL_IMAGES: dict[bool, tuple[type[IntegralImages], type[IntegralImages]]] = {
    False: (IntegralImages, BandedIntegralImages),
    True: (MatlabIntegralImages, BandedMatlabIntegralImages),
}
# Canvases of a large photo, which is detected alone, between two returns of freed memory. Without them, the results of
# the canvases, which are small and kept, scatter what is free, and the next layers need new memory: 0.6 GB more for 24
# megapixels.
_CANVASES = 32
_MIRRORED = [1, 0, 2, 4, 3]  # order of the landmarks in a mirrored face


class Detector(PhotoDetector):
    """Detects faces and their five landmarks.

    On the same machine the result for a photo does not depend, to the last bit, on the other photos of a call nor on
    their order: the networks always run on batches of a fixed size, on the CPU each in one thread. (Tested on the CPU.)
    Memory is bounded: one photo of 100 megapixels takes 1.5 GB at its peak, libraries included; see `Sizes`. Several
    threads may use a detector; on a GPU, threads with own CUDA streams need one each.

    Coordinates: MTCNN counts pixels from 1, as MATLAB does, and facenet-pytorch returns those numbers. Here they are
    0-based pixel centres: facenet-pytorch's boxes and landmarks minus 1. Measurements on 120 photos of LFW confirm this
    offset: compared with their mirror images, facenet-pytorch's landmarks are (1.02 +- 0.03) px too far right; compared
    with the photos enlarged three times, (0.97 +- 0.07) px too far right and (1.10 +- 0.09) px too far down.

    Args:
        min_face: side of the smallest detected face, pixels.
        factor: scale of each level of the image pyramid relative to the previous one.
        thresholds: minimum scores after the first, second and third network.
        mirror_landmarks: run the third network on the mirrored face too and average the landmarks, as the original
            MATLAB code does (facenet-pytorch does not).
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or a `Device`.
        parity: the implementation to reproduce. `none`: 0-based, with facenet-pytorch's arithmetic, which is faster,
            but with candidates padded with black at the border, as in the original. `facenet-pytorch`: its numbers,
            1-based, without the mirrored pass, candidates squeezed at the border. `matlab`: the arithmetic of the
            original cascade (boxes cut to whole pixels, inclusive sides, order of equal scores, imResample, crops
            padded with black), but 0-based: MATLAB's numbers minus 1.
        precision: of the networks' arithmetic, see `Device.autocast`; other than `float32` is faster on a GPU and moves
            boxes and landmarks by about a pixel.

    Raises:
        UsageError: If a setting is out of range, or the device does not support the precision.
        DeviceError: If the machine has no such device.
        DependencyError: If facenet-pytorch is missing or broken.
    """

    sure_score = 0.99

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
            raise UsageError(
                f"'{parity}' is not supported", where="parity", remedy=f"use {', '.join(get_args(Parity))}"
            )
        self.thresholds = tuple(thresholds)
        self.mirror_landmarks = mirror_landmarks and parity != "facenet-pytorch"
        self.device = choose_device(device)
        # A pickle has `device` as it was asked for, so that `auto` is chosen anew where the pickle is loaded.
        self._settings = {
            "min_face": min_face,
            "factor": factor,
            "device": device,
            "parity": parity,
            "precision": precision,
        }
        self._first_pixel = 0 if parity == "facenet-pytorch" else 1
        self._matlab, self._squeeze = parity == "matlab", parity == "facenet-pytorch"
        self.sizes = sizes_for(self.device)
        self._pyramid = Pyramid(min_face, factor, self.device, self.sizes, self._matlab)
        self._networks = MtcnnNetworks(self.device, precision)
        self._landmark_order = self.device.put(torch.tensor(_MIRRORED, device="cpu"))
        self._workers = WorkerPool()
        if not self.device.is_cuda:
            reuse_freed_blocks()

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments of the constructor: whoever loads a pickle gets the weights from facenet-pytorch."""
        return self._settings | {"thresholds": self.thresholds, "mirror_landmarks": self.mirror_landmarks}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    @torch.inference_mode()
    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        count = 1 if self.device.is_cuda else count_threads()  # a GPU works in parallel by itself
        remedy = f"use smaller photos{', device cpu' * self.device.is_cuda} or a larger min_face"
        with (
            memory_errors(remedy),
            exact_arithmetic(self.device.torch.type),
            self._workers.workers(count) as workers,
        ):
            return workers.run(self._detect, photos, workers)

    def _detect(self, photos: list[Pixels], workers: WorkerThreads) -> list[Faces]:
        is_large = 0 < self.sizes.banded < max(photo.size // 3 for photo in photos) * (1 + self._matlab)
        whole, banded = _INTEGRAL_IMAGES[self._matlab]
        integrals = (banded if is_large else whole)(photos, self.device, self._squeeze)
        run = functools.partial(self._run_network, integrals, workers)
        photo_ids, boxes = self._propose(integrals, photos, workers)
        photo_ids, boxes = self._refine(run, integrals, photo_ids, boxes)
        rows = self._output(run, photo_ids, boxes).cpu().numpy()
        ends = np.searchsorted(rows[:, 0], np.arange(len(photos) + 1))
        rows[:, 2:] -= self._first_pixel
        return [
            Faces(rows[a:b, 2:6], rows[a:b, 1], rows[a:b, 6:].reshape(-1, 5, 2)) for a, b in itertools.pairwise(ends)
        ]

    def _propose(self, integrals: IntegralImages, photos: list[Pixels], workers: WorkerThreads) -> Tensors:
        """Run the first network on all positions and sizes: photo ids (N,) and square boxes (N, 4)."""
        batches = canvas_batches(photos, self._pyramid, self.sizes.batch)
        groups: Iterable[list[CanvasBatch]] = ([batch] for batch in batches)
        if self.sizes.search:
            groups = batch_by_size(batches, attrgetter("pixels"), self.sizes.search, 1 << 10)
        empty = torch.empty(0, dtype=torch.float32, device=self.device.torch)
        cells: list[Tensors] = [(*[empty.long()] * 3, empty.view(0, 4), empty, empty.view(0, 4))]
        for number, group_cells in enumerate(workers.map(functools.partial(self._search, integrals), groups), 1):
            cells += group_cells
            if len(photos) == 1 and number % _CANVASES == 0:
                return_freed_memory()
        candidates = [torch.cat(column) for column in zip(*cells, strict=True)]
        if workers.count == 1:
            return self._select(integrals, candidates)
        step = -(-len(photos) // workers.count)

        def select_from(first: int) -> Tensors:
            rows = ((candidates[0] >= first) & (candidates[0] < first + step)).nonzero()[:, 0]
            return self._select(integrals, [column[rows] for column in candidates])

        kept = workers.map(select_from, range(0, len(photos), step))
        return tuple(torch.cat(column) for column in zip(*kept, strict=True))

    def _select(self, integrals: IntegralImages, candidates: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Suppress and shift candidates, and drop those outside their photo: photo ids and square boxes."""
        order = (candidates[0] * 2**40 + candidates[1]).argsort()
        photo_ids, _, levels, boxes, scores, shifts = (column[order] for column in candidates)
        keep = self._suppress(boxes, scores, photo_ids * 2**20 + levels, 0.5)
        photo_ids, boxes, scores, shifts = photo_ids[keep], boxes[keep], scores[keep], shifts[keep]
        squares = to_squares(boxes + shifts * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2), self._matlab)
        keep = self._suppress(boxes, scores, photo_ids, 0.7, allowed=integrals.touches(photo_ids, squares))
        return photo_ids[keep], squares[keep]

    def _search(self, integrals: IntegralImages, batches: list[CanvasBatch]) -> list[Tensors]:
        """Run P-Net on canvases; the host waits once for the device, for all of them.

        Returns:
            For each batch the photo id, rank, level, box, score and shift of the cells that may be faces.
        """
        outputs = [self._score(integrals, batch) for batch in batches]
        counts = torch.stack([mask.sum() for mask, _ in outputs]).tolist()
        return [
            self._describe(torch.nonzero_static(mask, size=count)[:, 0], *columns)
            for count, (mask, columns) in zip(counts, outputs, strict=True)
        ]

    def _score(
        self, integrals: IntegralImages, batch: CanvasBatch
    ) -> tuple[Tensor, tuple[Canvas, Tensor, Tensor, Tensor]]:
        """Return the mask of the cells that may be faces, and the canvas, photo ids, scores and features of a batch."""
        canvas = self._pyramid.canvas(*batch.size, batch.canvas)
        padded = batch.photos + batch.photos[-1:] * (batch.batch_size - len(batch.photos))
        photo_ids = self.device.put(torch.tensor(padded, device="cpu"))
        scores, features = self._networks.search(integrals.draw_canvas(photo_ids, canvas), canvas.padding)
        scores = scores.flatten(1)
        mask = (scores >= self.thresholds[0]) & (canvas.cells.flatten() >= 0)
        return mask[: len(batch.photos)].flatten(), (canvas, photo_ids, scores, features.flatten(1, 2))

    def _describe(self, chosen: Tensor, canvas: Canvas, photo_ids: Tensor, scores: Tensor, features: Tensor) -> Tensors:
        """Return the columns of `_search` for the chosen cells of a batch of canvases."""
        member, cell = chosen // scores.shape[1], chosen % scores.shape[1]
        level, top, left, rank, width = canvas.places[canvas.cells.flatten()[cell]].unbind(1)
        row, column = cell // canvas.cells.shape[1] + top, cell % canvas.cells.shape[1] + left
        corner = torch.stack([column, row], 1) * STRIDE
        scale = canvas.scales[level, None] if self._matlab else canvas.scales[level, None].float()
        boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + CELL) / scale).floor()], 1).float()
        shifts = self._networks.shift(features[member, cell])
        return photo_ids[member], rank + row * width + column, level, boxes, scores[member, cell], shifts

    def _suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, **options: Any) -> Tensor:
        """Suppress boxes, see `suppress`; the host waits for a GPU twice."""
        batched = self.sizes.search > 0
        return suppress(boxes, scores, groups, threshold, matlab=self._matlab, batched=batched, **options)

    def _refine(
        self, run: RunNetwork, integrals: IntegralImages, photo_ids: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the second network, which drops most candidates and moves the others."""
        scores, shifts = run(self._networks.refine, photo_ids, boxes, 24, self.sizes.refine)
        squares = to_squares(shift_boxes(boxes, shifts), self._matlab)
        touches = integrals.touches(photo_ids, squares)
        keep = self._suppress(boxes, scores, photo_ids, 0.7, above=self.thresholds[1], allowed=touches)
        return photo_ids[keep], squares[keep]

    def _output(self, run: RunNetwork, photo_ids: Tensor, boxes: Tensor) -> Tensor:
        """Run the third network: (N, 16), a photo id, score, box (4) and five landmarks x, y for each face."""
        network, side, batch_size = self._networks.output, 48, self.sizes.output
        scores, shifts, points = run(network, photo_ids, boxes, side, batch_size)
        moved = shift_boxes(boxes, shifts)
        keep = suppress_nested(moved, scores, photo_ids, above=self.thresholds[2], batched=self.sizes.search > 0)
        photo_ids, boxes, moved, scores, points = (column[keep] for column in (photo_ids, boxes, moved, scores, points))
        points = points.view(-1, 2, 5)
        if self.mirror_landmarks and len(photo_ids):
            _, _, mirrored = run(network, photo_ids, boxes, side, self.sizes.mirrored, mirrored=True)
            mirrored = mirrored.view(-1, 2, 5)[:, :, self._landmark_order]
            points = (points + torch.stack([1 - mirrored[:, 0], mirrored[:, 1]], 1)) / 2
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = (sides[:, :, None] * points + boxes[:, :2, None] - 1).transpose(1, 2)
        return torch.cat([photo_ids[:, None], scores[:, None], moved, landmarks.flatten(1)], 1)

    def _run_network(
        self,
        integrals: IntegralImages,
        workers: WorkerThreads,
        network: Callable[[Tensor], Tensors],
        photo_ids: Tensor,
        boxes: Tensor,
        side: int,
        batch_size: int,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return the outputs of a network for candidates, all of which touch their photo; its batches are full."""
        regions = integrals.regions(photo_ids, boxes)

        def outputs_from(start: int) -> Tensors:
            rows = torch.arange(start, start + batch_size, device=photo_ids.device)
            rows.clamp_(max=max(0, len(photo_ids) - 1))
            if len(photo_ids):
                return network(integrals.crop_and_resize(photo_ids[rows], regions[rows], side, mirrored))
            return network(torch.zeros(batch_size, 4, side, side, dtype=torch.float32, device=photo_ids.device))

        outputs = workers.map(outputs_from, range(0, max(1, len(photo_ids)), batch_size))
        return [torch.cat(column)[: len(photo_ids)] for column in zip(*outputs, strict=True)]
