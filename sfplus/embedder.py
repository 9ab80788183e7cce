"""Photos in, features out, for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfplus.alignment import align
from sfplus.detection import Detector, choose
from sfplus.device import Device, choose_device
from sfplus.errors import PhotoError
from sfplus.images import read_photo
from sfplus.networks.embed import embed_crops
from sfplus.shipped import DEFAULT_MODEL, find_model
from sfplus.weights.checkpoint import crop_template, load_model


class Embedder:
    """Finds the face of each photo, aligns it and describes it by a feature.

    Args:
        model: a folder with a model, or the name of one that sfplus ships.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Attributes:
        config: what the model's `config.json` says.

    Raises:
        WeightsError: the model cannot be read.
        DeviceError: the machine has no such device.

    Example:
        >>> features = Embedder()(["anna.jpg", "ben.jpg"])    # doctest: +SKIP
    """

    def __init__(self, model: str | Path = DEFAULT_MODEL, device: str | Device = "auto") -> None:
        self.folder = find_model(str(model))
        network, self.config = load_model(self.folder)
        self._template = crop_template(self.config, self.folder)
        self._device = choose_device(device)
        self._network = self._device.place(network)
        self._detector = Detector(device=self._device)

    def __call__(self, photos: Sequence[NDArray[np.uint8] | Path | str]) -> NDArray[np.float32]:
        """Features of the centre-most face of each photo: (N, 2 F) float32, the crop's beside its mirror image's.

        Raises:
            PhotoError: a photo cannot be read or shows no face.
        """
        return self.features(self.crops(photos))

    def crops(self, photos: Sequence[NDArray[np.uint8] | Path | str]) -> list[NDArray[np.uint8]]:
        """The aligned crop of the centre-most face of each photo, uint8 RGB."""
        arrays = [photo if isinstance(photo, np.ndarray) else read_photo(Path(photo)) for photo in photos]
        crops = []
        for photo, array, faces in zip(photos, arrays, self._detector.detect(arrays), strict=True):
            choice = choose(faces, array.shape[0], array.shape[1], "centre")
            if choice is None:
                where = "" if isinstance(photo, np.ndarray) else photo
                raise PhotoError("no face found", where=where, remedy="choose a photo with a larger, clearer face")
            crops.append(align(array, faces.landmarks[choice.index], self._template))
        return crops

    def features(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Features of aligned crops."""
        batch: Any = torch.from_numpy(np.stack(crops))
        return embed_crops(self._network, batch, self._device)
