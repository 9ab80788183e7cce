"""Features of photos, for use from Python."""

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
from sfplus.images import Pixels, read_photo
from sfplus.io.prefetch import batch_by_size, prefetch_map
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.networks.embed import Dtype, default_batch_size, embed_batches
from sfplus.weights.find_model import ModelSource
from sfplus.weights.model_folder import crop_template

Photo = NDArray[np.uint8] | Path | str
Crop = NDArray[np.uint8]
Feature = NDArray[np.float32]

_MAX_PIXELS = 1 << 22  # of the photos that are detected at a time
_MAX_PHOTOS = 64


class Embedder:
    """Detects and aligns the face of each photo and computes its feature.

    Args:
        model: a folder or file that `read_model` accepts (also `.onnx`, `.caffemodel`, TorchScript), the name of a
            shipped or downloaded model, `hf:owner/name`, or `package.module:function`, which returns the network.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or a `Device`.
        dtype: of the network's arithmetic: `float32`, the reference, or `bfloat16` (see `embed_crops`).
        network: of a file of weights, its network (see `ModelSource`).
        input: the input of a model that does not describe it, for example `insightface` (see `parse_preprocessing`).

    Attributes:
        folder: the folder or file of the model; of a function, its name.
        preprocessing: the input of the network.
        config: the contents of the model's `config.json`.

    Raises:
        WeightsError: If the model cannot be read.
        UsageError: If there is no such model, device or dtype.
        DeviceError: If the machine has no such device.

    Example:
        >>> features = Embedder()(["anna.jpg", "ben.jpg"])    # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        device: str | Device = "auto",
        dtype: Dtype = "float32",
        *,
        network: str = "",
        input: str = "",
    ) -> None:
        source = ModelSource(str(model), network, input)
        self._device = choose_device(device)
        self.folder, loaded = source.path, source.loaded
        self.config, self.preprocessing = loaded.config, loaded.preprocessing
        self._template = find_template(crop_template(self.config, self.folder))
        self._network = self._device.move(loaded.network)
        self._detector = Detector(device=self._device)
        self._dtype = dtype

    @property
    def width(self) -> int:
        """The length of a feature: the network's, or twice that if the feature of the mirror image follows."""
        return (1 + self.preprocessing.mirror) * int(self.config["feature_size"])

    def __call__(self, photos: Iterable[Photo]) -> Feature:
        """Return the features of the face nearest to the centre of each photo.

        Args:
            photos: paths, or uint8 RGB arrays (H, W, 3).

        Returns:
            float32 (N, `width`).

        Raises:
            PhotoError: If a photo cannot be read or shows no face.
        """
        return self.features(map(_or_raise, self._crops(photos)))

    def stream(self, photos: Iterable[Photo]) -> Iterator[Feature | PhotoError]:
        """Yield the feature of each photo, or the error for a photo that cannot be read or shows no face.

        Memory is bounded, so that `photos` may be an endless generator: at most 64 photos, or fewer with more than 4
        megapixels in total, and 8 that are prefetched.

        Args:
            photos: paths, or uint8 RGB arrays (H, W, 3).

        Yields:
            float32 (`width`,) or `PhotoError`, in the order of the photos.
        """
        results = self._crops(photos)
        while batch := list(islice(results, default_batch_size(self._device, self.preprocessing.mirror))):
            features = iter(self.features(crop for crop in batch if not isinstance(crop, PhotoError)))
            for crop in batch:
                yield crop if isinstance(crop, PhotoError) else next(features)

    def crops(self, photos: Iterable[Photo]) -> list[Crop]:
        """Return the aligned crop of the face nearest to the centre of each photo.

        Args:
            photos: paths, or uint8 RGB arrays (H, W, 3).

        Returns:
            uint8 RGB crops of the template's size.

        Raises:
            PhotoError: If a photo cannot be read or shows no face.
        """
        return [_or_raise(crop) for crop in self._crops(photos)]

    def features(self, crops: Iterable[Crop]) -> Feature:
        """Return the features of aligned crops.

        Args:
            crops: uint8 RGB of the template's size; an array (N, H, W, 3), a list or a generator, of which only a few
                are in memory at a time.

        Returns:
            float32 (N, `width`).

        Raises:
            UsageError: If a crop has another shape or dtype.
        """
        batches = embed_batches(self._network, self._batches(crops), self._device, self.preprocessing, self._dtype)
        empty = np.empty((0, self.width), np.float32)
        return np.concatenate([empty, *batches])

    def _batches(self, crops: Iterable[Crop]) -> Iterator[torch.Tensor]:
        shape = (self._template.height, self._template.width, 3)
        crops = iter(crops)
        while batch := list(islice(crops, default_batch_size(self._device, self.preprocessing.mirror))):
            for crop in batch:
                if crop.shape != shape or crop.dtype != np.uint8:
                    raise UsageError(
                        f"expected uint8 {shape}, got {crop.dtype} {crop.shape}",
                        where="crop", remedy="make crops with Embedder.crops or sfplus.alignment.align",
                    )  # fmt: skip
            yield torch.from_numpy(np.stack(batch))

    def _crops(self, photos: Iterable[Photo]) -> Iterator[Crop | PhotoError]:
        """Yield the crop of each photo, or its error; several photos are detected at a time."""
        for batch in batch_by_size(prefetch_map(_read, photos), _pixels, _MAX_PIXELS, _MAX_PHOTOS):
            yield from self._align(batch)

    def _align(self, batch: list[tuple[Photo, Pixels | PhotoError]]) -> Iterator[Crop | PhotoError]:
        readable = [pixels for _, pixels in batch if not isinstance(pixels, PhotoError)]
        detections = iter(self._detector.detect(readable))
        for photo, pixels in batch:
            if isinstance(pixels, PhotoError):
                yield pixels
                continue
            faces = next(detections)
            choice = choose(faces, pixels.shape[0], pixels.shape[1], "centre")
            if choice is None:
                where = "" if isinstance(photo, np.ndarray) else photo
                yield PhotoError("no face found", where=where, remedy="choose a photo with a larger, clearer face")
            else:
                yield align(pixels, faces.landmarks[choice.index], self._template)


def _read(photo: Photo) -> tuple[Photo, Pixels | PhotoError]:
    if isinstance(photo, np.ndarray):
        return photo, photo
    try:
        return photo, read_photo(Path(photo))
    except PhotoError as error:
        return photo, error


def _pixels(read: tuple[Photo, Pixels | PhotoError]) -> int:
    return 0 if isinstance(read[1], PhotoError) else read[1].size // 3


def _or_raise(result: Crop | PhotoError) -> Crop:
    if isinstance(result, PhotoError):
        raise result
    return result
