"""From photos to aligned crops in memory: several photos are read, detected and aligned at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfplus.alignment import Template, align
from sfplus.detection import Faces, choose
from sfplus.detection.choose import Rule, check_rule
from sfplus.detection.interface import PhotoDetector, detect_each
from sfplus.detection.photos import Channels, Photo, check_channels, name_photo, split_photos, to_pixels
from sfplus.errors import PhotoError
from sfplus.images import Pixels, reserve_memory
from sfplus.io.prefetch import Reserve, prefetch_batches

FaceRule = Rule | Literal["all"]
_LARGE = 1 << 24  # bytes of an array
Read = tuple[str, Pixels | PhotoError]  # the name of a photo in messages, and its pixels


@dataclass(frozen=True, eq=False)
class AlignedPhoto:
    """The chosen faces of a photo and their crops.

    Attributes:
        where: the name of the photo in messages.
        faces: without faces if the photo cannot be read.
        crops: uint8 RGB, one for each face.
        error: of a photo that cannot be read, or of landmarks that allow no crop.
    """

    where: str
    faces: Faces
    crops: list[NDArray[np.uint8]]
    error: PhotoError | None = None

    def first_crop(self) -> NDArray[np.uint8] | PhotoError:
        """Return the crop of the first face, or the error of a photo without a crop."""
        if self.error or self.crops:
            return self.error or self.crops[0]
        return PhotoError("no face found", where=self.where, remedy="choose a photo with a larger, clearer face")


class Aligner:
    """Detects, chooses and aligns the faces of photos.

    Args:
        detector: the detector.
        template: of the crops.
    """

    def __init__(self, detector: PhotoDetector, template: Template) -> None:
        self._detector = detector
        self._template = template

    def align(
        self, photos: Photo | Iterable[Photo], rule: FaceRule, channels: Channels = "rgb"
    ) -> tuple[Iterator[AlignedPhoto], bool]:
        """Return the chosen faces of each photo, in order, and True if the argument is a single photo.

        Memory is bounded, whatever the sizes of the photos (see `Sizes`): photos are read in advance while they take
        200 MB or less on a CPU, 1 GB on a GPU; a larger photo is read and detected alone.

        Args:
            photos: one photo, or several (see `split_photos`).
            rule: `all` faces, or one of them (see `choose`).
            channels: order of the channels of arrays and tensors, `rgb` or `bgr`.

        Raises:
            UsageError: If the rule or the order of channels is unknown.
            PhotoError: If the shape of a batch is not clear.
        """
        check_rule(rule, "all")
        check_channels(channels)
        sources, single = split_photos(photos)
        named = ((name_photo(photo, n, single), photo) for n, photo in enumerate(sources))
        sizes = self._detector.sizes
        batches = prefetch_batches(
            partial(_read, channels), named, sizes.prefetched, sizes.decoders, partial(_read_large_array, channels),
            size=_count_bytes, memory=sizes.memory, batch_size=3 * sizes.pixels, max_items=sizes.photos,
        )  # fmt: skip
        return (aligned for batch in batches for aligned in self._align(batch, rule)), single

    def _align(self, batch: list[Read], rule: FaceRule) -> Iterator[AlignedPhoto]:
        detections = iter(
            detect_each(self._detector, [pixels for _, pixels in batch if not isinstance(pixels, PhotoError)])
        )
        for where, pixels in batch:
            if isinstance(pixels, PhotoError):
                yield AlignedPhoto(where, Faces.empty(), [], pixels)
                continue
            if isinstance(faces := next(detections), PhotoError):
                named = PhotoError(faces.reason, where=where, remedy=faces.remedy)
                yield AlignedPhoto(where, Faces.empty(), [], named)
                continue
            if rule != "all" and (choice := choose(faces, pixels.shape[0], pixels.shape[1], rule)):
                faces = faces[choice.index]
            try:
                crops = [align(pixels, landmarks, self._template) for landmarks in faces.landmarks]
                yield AlignedPhoto(where, faces, crops)
            except PhotoError as error:
                reason = f"{error.where} {error.reason}"
                yield AlignedPhoto(where, faces, [], PhotoError(reason, where=where, remedy=error.remedy))


def _read(channels: Channels, named: tuple[str, Photo], reserve: Reserve) -> Read:
    where, photo = named
    try:
        return where, to_pixels(photo, channels, where, reserve_memory(reserve))
    except PhotoError as error:
        return where, error


def _read_large_array(channels: Channels, named: tuple[str, Photo]) -> Read | None:
    """Read an array at once, whose memory counts already, so that few are taken from a generator in advance."""
    return _read(channels, named, lambda _: True) if getattr(named[1], "nbytes", 0) > _LARGE else None


def _count_bytes(read: Read) -> int:
    return 0 if isinstance(read[1], PhotoError) else read[1].nbytes
