"""Aligned crops as a data set: decoded once where memory allows, then served as uint8 batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfplus.errors import DatasetError
from sfplus.images import read_photo

CACHE_BYTES = 1 << 30
"""Sets of fewer decoded bytes stay in memory after their first use."""


class CropDataset(Dataset[tuple[Tensor, int]]):
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

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One crop, uint8 RGB (H, W, 3), and its label."""
        index = range(len(self))[index]
        return self.batch(np.array([index]))[0][0], int(self.labels[index])

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
