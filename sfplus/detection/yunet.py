"""YuNet (Wu, Peng, Yu, Machine Intelligence Research 20-5, 2023): one small network, which OpenCV runs on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sfplus.detection.faces import Faces
from sfplus.detection.interface import PhotoDetector
from sfplus.detection.sizes import sizes_for
from sfplus.device import Device, choose_device, memory_errors
from sfplus.errors import UsageError, WeightsError, explain_damage
from sfplus.images import Pixels
from sfplus.io.threads import WorkerPool, count_threads
from sfplus.weights.detector_models import read_detector

YUNET = "yunet"  # in the zoo
_SMALLEST, _LARGEST = 15, 400  # sides of the faces that the network finds, pixels
_SIDE = 1280  # of the photos that are searched in their own size
_PIXELS = 1 << 23  # that are searched at most
_OVERLAP, _CANDIDATES = 0.3, 5000  # the defaults of FaceDetectorYN

Floats = npt.NDArray[np.float32]


class YuNet(PhotoDetector):
    """Detects faces and their five landmarks with YuNet, through OpenCV's `FaceDetectorYN`.

    It is several times as fast as MTCNN, and finds a few more profiles and masked faces. Its landmarks are less exact,
    and wrong in faces that are turned by more than 30 degrees. OpenCV runs it on the CPU, whatever the device. Several
    threads may use a detector, and a pickle has its settings.

    The network finds faces with sides of 15 to 400 pixels. Photos with a side above 400 pixels are therefore searched
    twice, the second time with their longer side scaled to 400. For the first time, photos with a side above 1280
    pixels are scaled down so far that a face of `min_face` pixels keeps 15, or the longer side has 1280, whichever is
    larger; and until at most 8 megapixels are left: in a photo of 50 megapixels, the smallest faces have 37 pixels. One
    photo of 100 megapixels takes 1.5 GB at its peak, libraries included.

    Coordinates are 0-based pixel centres. Compared with mirrored photos at seven scales, landmarks are (0.3 +- 0.1) px
    too far right on average, and not consistently, so they are not corrected.

    Args:
        min_face: side of the smallest detected face, the square root of the area of its box, pixels.
        min_score: of a face; 0.9 is the default of OpenCV, which loses a third of the profiles of CFP.
        device: decides how many photos are worked on at a time.

    Raises:
        UsageError: If a setting is out of range, or the model is not fetched.
        DeviceError: If the machine has no such device.
        WeightsError: If the file of the model was changed, or OpenCV cannot read it.
    """

    sure_score = 0.9

    def __init__(self, min_face: int = 20, min_score: float = 0.7, device: str | Device = "auto") -> None:
        if min_face < 1:
            raise UsageError(f"expected 1 or more pixels, got {min_face}", where="min_face")
        if not 0 < min_score < 1:
            raise UsageError(f"expected a number between 0 and 1, got {min_score}", where="min_score")
        self._settings = {"min_face": min_face, "min_score": min_score, "device": device}
        self._min_face, self._min_score = min_face, min_score
        self.sizes = sizes_for(choose_device(device))
        self._model = np.frombuffer(read_detector(YUNET), np.uint8)
        self._workers = WorkerPool()
        self._networks = threading.local()  # a network of OpenCV has a size, and works on one photo at a time
        _ = self._network((320, 320))

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        with (
            memory_errors("use smaller photos or a larger min_face"),
            self._workers.workers(count_threads()) as workers,
        ):
            return list(workers.map(self._detect, photos))

    def _detect(self, photo: Pixels) -> Faces:
        height, width = photo.shape[:2]
        rows = np.concatenate([self._search(photo, size) for size in self._search_sizes(width, height)])
        kept = cv2.dnn.NMSBoxes(rows[:, :4].tolist(), rows[:, 14].tolist(), 0, _OVERLAP)
        rows = rows[np.asarray(kept, np.int64).reshape(-1)]
        rows = rows[rows[:, 2] * rows[:, 3] >= self._min_face**2]
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4] - 1], 1)
        return Faces(boxes, rows[:, 14].clip(0, 1), rows[:, 4:14].reshape(-1, 5, 2))

    def _search_sizes(self, width: int, height: int) -> Iterator[tuple[int, int]]:
        """Yield the widths and heights in which a photo is searched."""
        longest = max(width, height)
        scale = min(1.0, max(_SIDE / longest, _SMALLEST / self._min_face))
        scale = min(scale, (_PIXELS / (width * height)) ** 0.5)
        for factor in (scale, *[_LARGEST / longest] * (scale * longest > _LARGEST)):
            yield max(1, round(width * factor)), max(1, round(height * factor))

    def _search(self, photo: Pixels, size: tuple[int, int]) -> Floats:
        """Return the faces of a photo that is scaled to a size: (N, 15), x y width height, landmarks and score."""
        height, width = photo.shape[:2]
        scaled = photo if size == (width, height) else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        try:
            faces = self._network(size).detect(cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR))[1]
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise MemoryError(f"OpenCV, for {size[0]}x{size[1]} pixels") from error
            raise
        rows: Floats = np.array([] if faces is None else faces, np.float32).reshape(-1, 15)
        rows = rows[np.isfinite(rows).all(1)]  # of faces that are too large, some are not
        scale = np.array([width / size[0], height / size[1]], np.float32)
        rows[:, :4] *= np.tile(scale, 2)
        rows[:, 4:14] = (rows[:, 4:14] + 0.5) * np.tile(scale, 5) - 0.5
        return rows

    def _network(self, size: tuple[int, int]) -> Any:
        """Return the network of this thread, set to a size."""
        network = getattr(self._networks, "network", None)
        if network is None:
            with explain_damage(YUNET, remedy="update opencv-python", error=WeightsError):
                network = cv2.FaceDetectorYN.create(
                    "onnx", self._model, np.empty(0, np.uint8), size, self._min_score, _OVERLAP, _CANDIDATES
                )
            self._networks.network = network
        network.setInputSize(size)
        return network
