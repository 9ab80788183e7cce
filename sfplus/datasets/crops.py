"""Aligned crops as a data set: from files, decoded once where memory allows, or from a pack; served as uint8 batches.

What training asks of a data set of crops: `labels` (N,) int64, `height`, `width`, `len()`, `batch(indices)`, and
`digest`, which a checkpoint remembers.
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

CACHE_BYTES = 1 << 30
"""Sets of fewer decoded bytes stay in memory after their first use."""


class _Crops(Dataset[tuple[Tensor, int]]):
    """What both kinds have as map-style sets."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One crop, uint8 RGB (H, W, 3), and its label."""
        index = range(len(self))[index]
        return self.batch(np.array([index]))[0][0], int(self.labels[index])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The crops at some indices (B,): uint8 RGB (B, H, W, 3), a copy, and labels (B,) int64."""
        raise NotImplementedError


class CropDataset(_Crops):
    """A map-style set of crops of one size with their labels.

    Args:
        paths: one file per crop.
        labels: the class of each crop, 0-based.
        height: of every crop, pixels.
        width: of every crop, pixels.

    Raises:
        DatasetError: there is no crop, or labels are negative or fewer or more than paths.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], height: int, width: int) -> None:
        if not paths or len(paths) != len(labels) or min(labels) < 0:
            raise DatasetError(
                f"{len(paths)} crops with {len(labels)} labels make no set to train on",
                where="crops",
                remedy="give at least one crop and for each a label of 0 or more",
            )
        self.paths = tuple(paths)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.height, self.width = height, width
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        small = len(paths) * height * width * 3 < CACHE_BYTES
        self._cache = np.empty((len(paths), height, width, 3), np.uint8) if small else None
        self._have = np.zeros(len(paths), bool)

    @property
    def digest(self) -> str:
        """SHA-256 over labels and names of files; no file is read."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        digest.update("\0".join(path.name for path in self.paths).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The crops at some indices (B,): uint8 RGB (B, H, W, 3), a copy, and labels (B,) int64.

        Raises:
            PhotoError: a file cannot be decoded.
            DatasetError: a crop has another size.
        """
        if self._cache is None:
            crops = np.stack(list(self._pool.map(self._decode, indices)))
        else:
            new = np.unique(indices[~self._have[indices]])
            for index, crop in zip(new, self._pool.map(self._decode, new), strict=True):
                self._cache[index] = crop
            self._have[new] = True
            crops = self._cache[indices]
        return torch.from_numpy(crops), self.labels[torch.from_numpy(indices)]

    def _decode(self, index: int) -> np.ndarray:
        crop: np.ndarray = read_photo(self.paths[index])
        if crop.shape != (self.height, self.width, 3):
            raise DatasetError(
                f"is {crop.shape[1]} x {crop.shape[0]} pixels, not {self.width} x {self.height}",
                where=self.paths[index],
                remedy="align the photos with the template of this network",
            )
        return crop


class PackedCrops(_Crops):
    """A pack as a data set for training; takes the place of `CropDataset`.

    Args:
        folder: the pack.
        exclude: people to leave out; the others are numbered anew, in the same order.

    Attributes:
        people: the names that labels stand for.
        labels: (N,) int64.
        height: of every crop, pixels.
        width: of every crop, pixels.

    Raises:
        DatasetError: as `Pack`, or fewer than two people are left.
    """

    def __init__(self, folder: Path, exclude: Collection[str] = ()) -> None:
        self._pack = Pack(folder)
        self.height, self.width = self._pack.height, self._pack.width
        stay = np.array([person not in exclude for person in self._pack.people])
        if stay.sum() < 2:
            remedy = "training needs at least two people"
            count = "1 person" if stay.sum() == 1 else f"{stay.sum()} people"
            raise DatasetError(f"contains crops of {count}", where=folder, remedy=remedy)
        self._rows = np.flatnonzero(stay[self._pack.labels])
        self.people = [person for person, stays in zip(self._pack.people, stay, strict=True) if stays]
        self.labels = torch.from_numpy((np.cumsum(stay) - 1)[self._pack.labels[self._rows]])

    @property
    def digest(self) -> str:
        """SHA-256 of all that the crops and labels are; no pixel is read."""
        return hashlib.sha256(self._pack.manifest["content"].encode() + self._rows.tobytes()).hexdigest()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The crops at some indices (B,): uint8 RGB (B, H, W, 3), a copy, and labels (B,) int64.

        Raises:
            DatasetError: the bytes of a crop are not those that were packed.
        """
        return torch.from_numpy(self._pack.take(self._rows[indices])), self.labels[torch.from_numpy(indices)]
