"""Photos in, features out, for use from Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sfplus.alignment import align, find_template
from sfplus.detection import Detector, choose
from sfplus.device import Device, choose_device
from sfplus.errors import PhotoError, UsageError
from sfplus.images import read_photo
from sfplus.io.prefetch import batch_by_size, prefetch_map
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.networks.embed import Dtype, embed_batches, pass_size
from sfplus.weights.find_model import find_model
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import crop_template

Photo = NDArray[np.uint8] | Path | str
Crop = NDArray[np.uint8]
Feature = NDArray[np.float32]

_PIXELS = 1 << 22  # of the photos that are in memory together
_PHOTOS = 64


class Embedder:
    """Finds the face of each photo, aligns it and describes it by a feature.

    Args:
        model: a folder or file that `load_model` reads (also `.caffemodel`, `.onnx`), the name of a model that sfplus
            ships or has fetched, or `hf:owner/name`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: of the network's arithmetic: `float32`, the reference, or `bfloat16` (see `embed_crops`).

    Attributes:
        config: what the model's `config.json` says.

    Raises:
        WeightsError: the model cannot be read.
        UsageError: there is no such model, device or dtype.
        DeviceError: the machine has no such device.

    Example:
        >>> features = Embedder()(["anna.jpg", "ben.jpg"])    # doctest: +SKIP
    """

    def __init__(
        self, model: str | Path = DEFAULT_MODEL, device: str | Device = "auto", dtype: Dtype = "float32"
    ) -> None:
        self.folder = Path(model) if Path(model).is_file() else find_model(str(model))
        network, self.config = load_model(self.folder)
        self._template = find_template(crop_template(self.config, self.folder))
        self._device = choose_device(device)
        self._network = self._device.place(network)
        self._detector = Detector(device=self._device)
        self._dtype = dtype

    def __call__(self, photos: Iterable[Photo]) -> Feature:
        """Features of the centre-most face of each photo: (N, 2 F) float32, the crop's beside its mirror image's.

        Raises:
            PhotoError: a photo cannot be read or shows no face.
        """
        return self.features(map(_or_raise, self._crops(photos)))

    def stream(self, photos: Iterable[Photo]) -> Iterator[Feature | PhotoError]:
        """The same for any number of photos, one answer a photo in their order, as they are ready.

        A photo that cannot be read or shows no face is answered by the error. Memory is bounded, so photos may be a
        generator: at most 64 of them, fewer where they have more than 4 megapixels together, and 8 that are read ahead.
        """
        answers = self._crops(photos)
        while some := list(islice(answers, pass_size(self._device))):
            features = iter(self.features(crop for crop in some if not isinstance(crop, PhotoError)))
            for crop in some:
                yield crop if isinstance(crop, PhotoError) else next(features)

    def crops(self, photos: Iterable[Photo]) -> list[Crop]:
        """The aligned crop of the centre-most face of each photo, uint8 RGB.

        Raises:
            PhotoError: a photo cannot be read or shows no face.
        """
        return [_or_raise(crop) for crop in self._crops(photos)]

    def features(self, crops: Iterable[Crop]) -> Feature:
        """Features of aligned crops: (N, 2 F) float32, the crop's beside its mirror image's.

        Args:
            crops: uint8 RGB of the template's size; an array (N, H, W, 3), a list or a generator, of which only a few
                are in memory at a time.

        Raises:
            UsageError: a crop has another shape or type.
        """
        found = embed_batches(self._network, self._batches(crops), self._device, dtype=self._dtype)
        empty = np.empty((0, 2 * int(self.config["feature_size"])), np.float32)
        return np.concatenate([empty, *found])

    def _batches(self, crops: Iterable[Crop]) -> Iterator[torch.Tensor]:
        shape = (self._template.height, self._template.width, 3)
        crops = iter(crops)
        while batch := list(islice(crops, pass_size(self._device))):
            for crop in batch:
                if crop.shape != shape or crop.dtype != np.uint8:
                    raise UsageError(
                        f"expected uint8 {shape}, got {crop.dtype} {crop.shape}",
                        where="crop", remedy="make crops with Embedder.crops or sfplus.alignment.align",
                    )  # fmt: skip
            yield torch.from_numpy(np.stack(batch))

    def _crops(self, photos: Iterable[Photo]) -> Iterator[Crop | PhotoError]:
        """The crop of each photo, or what was wrong with it; a few photos are detected together."""
        for group in batch_by_size(prefetch_map(_read, photos), _pixels, _PIXELS, _PHOTOS):
            yield from self._align(group)

    def _align(self, group: list[tuple[Photo, Crop | PhotoError]]) -> Iterator[Crop | PhotoError]:
        found = iter(self._detector.detect([picture for _, picture in group if not isinstance(picture, PhotoError)]))
        for photo, picture in group:
            if isinstance(picture, PhotoError):
                yield picture
                continue
            faces = next(found)
            choice = choose(faces, picture.shape[0], picture.shape[1], "centre")
            if choice is None:
                where = "" if isinstance(photo, np.ndarray) else photo
                yield PhotoError("no face found", where=where, remedy="choose a photo with a larger, clearer face")
            else:
                yield align(picture, faces.landmarks[choice.index], self._template)


def _read(photo: Photo) -> tuple[Photo, Crop | PhotoError]:
    if isinstance(photo, np.ndarray):
        return photo, photo
    try:
        return photo, read_photo(Path(photo))
    except PhotoError as error:
        return photo, error


def _pixels(read: tuple[Photo, Crop | PhotoError]) -> int:
    return 0 if isinstance(read[1], PhotoError) else read[1].size // 3


def _or_raise(answer: Crop | PhotoError) -> Crop:
    if isinstance(answer, PhotoError):
        raise answer
    return answer
