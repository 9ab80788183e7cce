"""Features of photos, for use from Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from sfplus.aligner import AlignedPhoto, Aligner, FaceRule
from sfplus.alignment import find_template
from sfplus.detection.choose import Rule, check_rule
from sfplus.detection.interface import FaceDetector
from sfplus.detection.photos import Array, Channels, File, Photo, name_photo, split_photos, to_pixels
from sfplus.detection.registry import MTCNN, create_detector
from sfplus.device import Device, choose_device
from sfplus.embedded_faces import EmbeddedFaces
from sfplus.errors import PhotoError, UsageError, WeightsError
from sfplus.io.console import quantity
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.networks.embed import Dtype, default_batch_size, embed_batches
from sfplus.verification.decision import DecisionRule, similarity
from sfplus.weights.find_model import ModelSource, crop_template

Crop = NDArray[np.uint8]
Feature = NDArray[np.float32]
Photos = Photo | Iterable[Photo]
Result = TypeVar("Result")


class Embedder:
    """Detects and aligns the face of each photo and computes its feature.

    A photo is a path, the bytes of a file, a Pillow image, or a uint8 array or tensor, as `Detector.detect` accepts it.
    Methods return one result for one photo, and several for an iterable or a batch of photos. Their argument `channels`
    is the order of the channels of arrays and tensors, `rgb` or, as OpenCV has it, `bgr`.

    A pickle has the arguments of the constructor and a digest of the model, which is read again where the pickle is
    loaded, so that spawned processes, such as workers of a `DataLoader`, can use an embedder.

    Args:
        model: a folder or file that `read_model` accepts (also `.onnx`, `.caffemodel`, TorchScript), the name of a
            shipped or downloaded model, `hf:owner/name`, or `package.module:function`, which returns the network.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or a `Device`.
        dtype: of the network's arithmetic: `float32`, the reference, or `bfloat16` (see `embed_crops`).
        network: of a file of weights, its network (see `ModelSource`).
        input: the input of a model that does not describe it, for example `insightface` (see `parse_preprocessing`).
        choose: the face of a photo with several: `centre`, `largest` or `confident` (see `sfplus.detection.choose`).
        detector: `mtcnn`, `yunet`, `package.module:Class`, or an object with the method of `FaceDetector`.
        turned: whether faces are also found that lie on their side or upside down (see `TurnedDetector`).

    Attributes:
        folder: the folder or file of the model; of a function, its name.
        preprocessing: the input of the network.
        config: the contents of the model's `config.json`.

    Raises:
        WeightsError: If the model cannot be read.
        UsageError: If there is no such model, device, dtype or rule.
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
        choose: Rule = "centre",
        detector: str | FaceDetector = MTCNN,
        turned: bool = False,
    ) -> None:
        check_rule(choose)
        self._settings = {"device": device, "dtype": dtype, "choose": choose, "detector": detector, "turned": turned}
        self._model = {"name": str(model), "network": network, "input": input}
        source = ModelSource(**self._model)
        self._device = choose_device(device)
        with torch.device("cpu"):  # whatever torch's default device is
            self.folder, loaded = source.path, source.loaded
        self.config, self.preprocessing = loaded.config, loaded.preprocessing
        self._template = find_template(crop_template(self.config, self.folder))
        self._network = self._device.move(loaded.network.float())  # whatever torch's default dtype was
        self._aligner = Aligner(create_detector(detector, self._device, turned=turned), self._template)
        self._dtype, self._choose = dtype, choose

    def __getstate__(self) -> dict[str, Any]:
        model = {key: _absolute(value) for key, value in self._model.items()}
        return {"model": model, "settings": self._settings, "content": ModelSource(**model).content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state["model"]
        if ModelSource(**model).content != state["content"]:
            reason = "is not the model of this pickle, it has changed"
            raise WeightsError(reason, where=model["name"], remedy="create the Embedder and the pickle again")
        names = {"network": model["network"], "input": model["input"]}
        self.__init__(model["name"], **names, **state["settings"])  # type: ignore[misc]

    @property
    def width(self) -> int:
        """The length of a feature: the network's, or twice that if the feature of the mirror image follows."""
        return (1 + self.preprocessing.mirror) * int(self.config["feature_size"])

    @cached_property
    def decision_rule(self) -> DecisionRule | None:
        """The mean feature and the thresholds of the model; None for a model without, or with another `input`.

        Raises:
            WeightsError: If its files are damaged.
        """
        return None if self._model["input"] else DecisionRule.load(self.folder, self.config)

    def __call__(self, photos: Photos, *, channels: Channels = "rgb") -> Feature:
        """Return the feature of the chosen face of each photo.

        Args:
            photos: one photo, or several.
            channels: see above.

        Returns:
            float32 (`width`,) for one photo, (N, `width`) for several.

        Raises:
            PhotoError: If a photo cannot be read or shows no face.
        """
        aligned, single = self._aligner.align(photos, self._choose, channels)
        features = self.features(_or_raise(photo.first_crop()) for photo in aligned)
        return features[0] if single else features

    def stream(self, photos: Photos, *, channels: Channels = "rgb") -> Iterator[Feature | PhotoError]:
        """Yield the feature of each photo, or the error for a photo that cannot be used or shows no face.

        Memory is bounded, so that `photos` may be an endless generator: on a CPU, at most 64 photos, or fewer with more
        than 4 megapixels in total, and 8 that are prefetched; on a GPU, 512 photos or 16 megapixels, and as many that
        are prefetched.

        Args:
            photos: one photo, or several.
            channels: see above.

        Yields:
            float32 (`width`,) or `PhotoError`, in the order of the photos.
        """
        results = map(AlignedPhoto.first_crop, self._aligner.align(photos, self._choose, channels)[0])
        while batch := list(islice(results, default_batch_size(self._device, self.preprocessing.mirror))):
            features = iter(self.features(crop for crop in batch if not isinstance(crop, PhotoError)))
            for crop in batch:
                yield crop if isinstance(crop, PhotoError) else next(features)

    @overload
    def faces(  # type: ignore[overload-overlap]
        self, photos: File, *, choose: FaceRule = ..., channels: Channels = ...
    ) -> EmbeddedFaces: ...
    @overload
    def faces(self, photos: Array, *, choose: FaceRule = ..., channels: Channels = ...) -> Any: ...
    @overload
    def faces(
        self, photos: Iterable[Photo], *, choose: FaceRule = ..., channels: Channels = ...
    ) -> list[EmbeddedFaces]: ...

    def faces(
        self, photos: Photos, *, choose: FaceRule = "all", channels: Channels = "rgb"
    ) -> EmbeddedFaces | list[EmbeddedFaces]:
        """Return the faces of each photo: boxes, scores, landmarks, crops and features.

        Args:
            photos: one photo, or several.
            choose: `all` faces, or the one that `centre`, `largest` or `confident` chooses.
            channels: see above.

        Returns:
            One object for one photo, a list for several; without faces, its arrays are empty.

        Raises:
            PhotoError: If a photo cannot be read.
        """
        aligned, single = self._aligner.align(photos, choose, channels)
        results = [_or_raise(photo.error or photo) for photo in aligned]
        features = self.features(chain.from_iterable(photo.crops for photo in results))
        ends = list(accumulate(len(photo.crops) for photo in results))[:-1]
        faces = list(map(self._join, results, np.split(features, ends)))
        return faces[0] if single else faces

    def _join(self, photo: AlignedPhoto, features: Feature) -> EmbeddedFaces:
        empty = np.empty((0, self._template.height, self._template.width, 3), np.uint8)
        crops = np.stack(photo.crops) if photo.crops else empty
        return EmbeddedFaces(photo.faces.boxes, photo.faces.scores, photo.faces.landmarks, crops, features)

    def similarity(self, first: Photos | Feature, second: Photos | Feature, *, channels: Channels = "rgb") -> Any:
        """Return the cosine similarity of faces, after subtracting the model's mean feature if it has one.

        Args:
            first: one photo, N photos, or features of this model, (`width`,) or (N, `width`).
            second: the same; one side may be a single photo and the other N.
            channels: see above.

        Returns:
            A float from -1 to 1, or float64 (N,); `sfplus compare` prints the same number.

        Raises:
            PhotoError: If a photo cannot be read or shows no face.
            UsageError: If features have another length, or the sides different numbers of photos.
        """
        left, right = (self._to_features(side, channels) for side in (first, second))
        if left.ndim == right.ndim == 2 and len(left) != len(right):
            raise UsageError(
                f"got {len(left)} and {quantity(len(right), 'photo')}", where="similarity", remedy="pass equal numbers"
            )
        score = similarity(left, right, self.decision_rule.mean if self.decision_rule else 0)
        return score if np.ndim(score) else float(score)

    def _to_features(self, side: Any, channels: Channels) -> Feature:
        if not isinstance(side, np.ndarray) or side.dtype.kind != "f":
            return self(side, channels=channels)
        if side.ndim not in (1, 2) or side.shape[-1] != self.width:
            reason = f"expected features of shape (..., {self.width}), got {side.dtype} {side.shape}"
            raise UsageError(reason, where="similarity", remedy="compute both with this model")
        return side

    @overload
    def crops(self, photos: File, *, channels: Channels = ...) -> Crop: ...  # type: ignore[overload-overlap]
    @overload
    def crops(self, photos: Array, *, channels: Channels = ...) -> Any: ...
    @overload
    def crops(self, photos: Iterable[Photo], *, channels: Channels = ...) -> list[Crop]: ...

    def crops(self, photos: Photos, *, channels: Channels = "rgb") -> Crop | list[Crop]:
        """Return the aligned crop of the chosen face of each photo.

        Args:
            photos: one photo, or several.
            channels: see above.

        Returns:
            uint8 RGB of the template's size: one crop for one photo, a list for several.

        Raises:
            PhotoError: If a photo cannot be read or shows no face.
        """
        aligned, single = self._aligner.align(photos, self._choose, channels)
        crops = [_or_raise(photo.first_crop()) for photo in aligned]
        return crops[0] if single else crops

    def features(self, crops: Photos) -> Feature:
        """Return the features of aligned crops.

        Args:
            crops: one crop of the template's size, RGB, in any form of a photo; or an array (N, H, W, 3), a list or a
                generator, of which only a few are in memory at a time.

        Returns:
            float32 (`width`,) for one crop, (N, `width`) for several.

        Raises:
            PhotoError: If a crop cannot be read.
            UsageError: If a crop has another size.
        """
        sources, single = split_photos(crops)
        batches = embed_batches(
            self._network, self._batches(sources, single), self._device, self.preprocessing, self._dtype
        )
        features = np.concatenate([np.empty((0, self.width), np.float32), *batches])
        return features[0] if single else features

    def _batches(self, crops: Iterable[Photo], single: bool) -> Iterator[torch.Tensor]:
        shape = (self._template.height, self._template.width, 3)
        named = ((name_photo(crop, n, single, "crop"), crop) for n, crop in enumerate(crops))
        while batch := list(islice(named, default_batch_size(self._device, self.preprocessing.mirror))):
            pixels = [to_pixels(crop, where=where) for where, crop in batch]
            for (where, _), crop in zip(batch, pixels, strict=True):
                if crop.shape != shape:
                    raise UsageError(
                        f"expected uint8 {shape}, got {crop.dtype} {crop.shape}",
                        where=where, remedy="make crops with Embedder.crops or sfplus.alignment.align",
                    )  # fmt: skip
            yield torch.from_numpy(np.stack(pixels))


def _absolute(name: str) -> str:
    """Return a path as absolute, so that processes with another working folder find it, and other names unchanged."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def _or_raise(result: Result | PhotoError) -> Result:
    if isinstance(result, PhotoError):
        raise result
    return result
