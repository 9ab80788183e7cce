"""Aligned crops as data sets for training, read from image files or from a pack; batches are uint8.

Training uses these members of a data set of crops: `labels` (N,) int64, `height`, `width`, `len()`, `batch(indices)`,
and `digest`, which is stored in checkpoints.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfplus.datasets.formats.pack import Pack
from sfplus.errors import DatasetError
from sfplus.images import read_photo
from sfplus.io.console import quantity

CACHE_BYTES = 1 << 30
"""Data sets with fewer bytes of pixels are kept in memory after their first use."""


class _BatchDataset(Dataset[tuple[Tensor, int]]):
    """A map-style data set whose items are taken from batches."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a crop, uint8 RGB (H, W, 3), and its label."""
        index = range(len(self))[index]
        return self.batch(np.array([index]))[0][0], int(self.labels[index])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return a copy of the crops at `indices` (B,), uint8 RGB (B, H, W, 3), and their labels (B,) int64."""
        raise NotImplementedError


class CropDataset(_BatchDataset):
    """A map-style data set of crop files of one size.

    Args:
        paths: the file of each crop.
        labels: the 0-based class of each crop.
        height: height of all crops, pixels.
        width: width of all crops, pixels.
        people: the person of each label, for messages; default: the labels.

    Raises:
        DatasetError: If there are no crops, the number of labels differs, or a label is negative.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], height: int, width: int, people: Sequence[str] = ()
    ) -> None:
        if not paths or len(paths) != len(labels) or min(labels) < 0:
            reason = f"got {quantity(len(paths), 'crop')} with {quantity(len(labels), 'label')}"
            raise DatasetError(
                reason, where="crops", remedy="give at least one crop, and a label of 0 or more for each"
            )
        self.paths = tuple(paths)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.height, self.width, self.people = height, width, list(people)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        fits_cache = len(paths) * height * width * 3 < CACHE_BYTES
        self._cache = np.empty((len(paths), height, width, 3), np.uint8) if fits_cache else None
        self._cached = np.zeros(len(paths), bool)

    @property
    def digest(self) -> str:
        """SHA-256 of the labels and file names; no file is read."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        digest.update("\0".join(path.name for path in self.paths).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return a copy of the crops at `indices` (B,), uint8 RGB (B, H, W, 3), and their labels (B,) int64.

        Raises:
            PhotoError: If a file cannot be decoded.
            DatasetError: If a crop has another size.
        """
        if self._cache is None:
            crops = np.stack(list(self._pool.map(self._decode, indices)))
        else:
            new = np.unique(indices[~self._cached[indices]])
            for index, crop in zip(new, self._pool.map(self._decode, new), strict=True):
                self._cache[index] = crop
            self._cached[new] = True
            crops = self._cache[indices]
        return torch.from_numpy(crops), self.labels[torch.from_numpy(indices)]

    def _decode(self, index: int) -> np.ndarray:
        crop: np.ndarray = read_photo(self.paths[index])
        if crop.shape != (self.height, self.width, 3):
            raise DatasetError(
                f"is {crop.shape[0]}x{crop.shape[1]} pixels, not {self.height}x{self.width}",
                where=self.paths[index],
                remedy="align the photos with the template of this network",
            )
        return crop


class PackedCrops(_BatchDataset):
    """A pack as a data set, with the interface of `CropDataset`.

    Args:
        folder: the pack.
        exclude: people to leave out; the others are numbered again in the same order.
        least: the number of people that must remain; 1 where labels do not matter.

    Attributes:
        people: the person of each label.
        labels: (N,) int64.
        rows: (N,) int64, the rows of the remaining crops in the pack.
        height: height of all crops, pixels.
        width: width of all crops, pixels.

    Raises:
        DatasetError: If the pack is damaged (see `Pack`), or fewer than `least` people remain.
    """

    def __init__(self, folder: Path, exclude: Collection[str] = (), least: int = 2) -> None:
        self._pack = Pack(folder)
        self.height, self.width = self._pack.height, self._pack.width
        kept = np.array([person not in exclude for person in self._pack.people])
        if kept.sum() < least:
            reason = f"contains crops of {quantity(kept.sum(), 'person', 'people')}"
            remedy = "training needs at least two people" if least > 1 else "exclude fewer people"
            raise DatasetError(reason, where=folder, remedy=remedy)
        self.rows = np.flatnonzero(kept[self._pack.labels])
        self.people = [person for person, is_kept in zip(self._pack.people, kept, strict=True) if is_kept]
        self.labels = torch.from_numpy((np.cumsum(kept) - 1)[self._pack.labels[self.rows]])

    @property
    def digest(self) -> str:
        """SHA-256 of the digests of the pack and the selected rows; no pixel is read."""
        return hashlib.sha256(self._pack.manifest["content"].encode() + self.rows.tobytes()).hexdigest()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return a copy of the crops at `indices` (B,), uint8 RGB (B, H, W, 3), and their labels (B,) int64.

        Raises:
            DatasetError: If the bytes of a crop were changed after it was packed.
        """
        return torch.from_numpy(self._pack.take(self.rows[indices])), self.labels[torch.from_numpy(indices)]
