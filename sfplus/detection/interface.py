"""What every detector offers, and the part that those of this project share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Protocol, overload

from sfplus.detection.faces import Faces
from sfplus.detection.photos import Array, Channels, File, Photo, read_photos
from sfplus.detection.sizes import Sizes
from sfplus.errors import PhotoError
from sfplus.images import Pixels, is_transient
from sfplus.io.prefetch import batch_by_size


class FaceDetector(Protocol):
    """A detector of faces with five landmarks: all that `Embedder` and recipes need of one.

    The landmarks are left eye, right eye, nose, left and right mouth corner of the upright face, see `Faces`.
    """

    def detect(self, photos: list[Pixels], /) -> list[Faces]:
        """Detect the faces of photos.

        Args:
            photos: uint8 RGB (H, W, 3) each, of any sizes, read-only.

        Returns:
            A `Faces` for each photo, in their order; without faces, it is empty.
        """


class PhotoDetector:
    """Base of the detectors of this project: `detect` takes photos in any form and hands arrays on, batch by batch.

    Attributes:
        sizes: how much the detector works on at a time.
        sure_score: a face with at least this score is upright; below it, a part of the faces that lie on their side or
            upside down are detected with wrong landmarks (see `TurnedDetector`).
    """

    sizes: Sizes
    sure_score: float = 0.0

    @overload
    def detect(self, photos: File, *, channels: Channels = ...) -> Faces: ...  # type: ignore[overload-overlap]
    @overload
    def detect(self, photos: Array, *, channels: Channels = ...) -> Any: ...  # of one photo or of a batch
    @overload
    def detect(self, photos: Iterable[Photo], *, channels: Channels = ...) -> list[Faces]: ...

    def detect(self, photos: Photo | Iterable[Photo], *, channels: Channels = "rgb") -> Faces | list[Faces]:
        """Detect the faces of one photo, or of several of any sizes.

        Args:
            photos: a photo (a path, the bytes of a file, a Pillow image, a uint8 array or tensor, see `to_pixels`); or
                an iterable, or a batch (N, H, W, C) or (N, C, H, W), of photos, which are read a few at a time.
            channels: order of the channels of arrays and tensors, `rgb` or, as OpenCV has it, `bgr`.

        Returns:
            One `Faces` for one photo; otherwise a list with one for each photo, in their order.

        Raises:
            PhotoError: If a file cannot be read, or an argument is not a photo; it names the first one.
            UsageError: If the order of channels is unknown.
            SfplusError: If the memory of the device is not enough.
        """
        pixels, single = read_photos(photos, channels)
        batches = batch_by_size(pixels, lambda photo: photo.size // 3, self.sizes.pixels, self.sizes.photos)
        # Generators of the caller run outside the modes of `_detect_together`; no variable keeps a batch.
        faces = list(itertools.chain.from_iterable(map(self._detect_together, batches)))
        return faces[0] if single else faces

    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        """Detect the faces of a batch of photos."""
        raise NotImplementedError


def detect_each(detector: PhotoDetector, photos: list[Pixels]) -> list[Faces | PhotoError]:
    """Return the faces of each photo, or why a detector of the user's own fails for it.

    Raises:
        PhotoError: If it fails because of the machine, so that another attempt may succeed.
    """
    try:
        return list(detector.detect(photos) if photos else ())
    except PhotoError as error:
        if is_transient(error):
            raise
        if len(photos) > 1:
            return [result for photo in photos for result in detect_each(detector, [photo])]
        reason = f"{error.where}: {error.reason}" if error.where else error.reason
        return [PhotoError(reason, remedy=error.remedy)]
