"""Pairs of photos: the value object, and the people that it shows."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import PairsError

FORBIDDEN = re.compile(r"[/\\\x00]|^\.{1,2}$|^[A-Za-z]:|^$")  # parts of a path that may lead elsewhere


class People(NamedTuple):
    """The people that pairs show: their names, and the person (P,) on either side of each pair as an index of them."""

    names: tuple[str, ...]
    left: NDArray[np.int64]
    right: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of photos to verify.

    Attributes:
        left: (P,) photo names without extension, relative to the folder of photos: "Name/Name_0001".
        right: (P,) the other photo of each pair.
        same: (P,) bool, whether the pair shows one person.
        fold: (P,) int64, 0-based fold of each pair; every fold up to the largest holds pairs. A pair of fold -1 - k
            belongs to fold k, but only helps to choose thresholds and is never tested.

    Raises:
        PairsError: the parts do not agree, or a name may lie outside the folder of photos.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = (len(self.left),)
        if not self.left or len(self.right) != shape[0] or self.same.shape != shape or self.fold.shape != shape:
            raise PairsError(
                f"pairs need equal, non-zero lengths, not left {shape[0]}, right {len(self.right)}, "
                f"same {self.same.shape}, fold {self.fold.shape}"
            )
        if self.same.dtype != np.bool_ or self.fold.dtype != np.int64:
            raise PairsError(f"pairs need bool same and int64 fold, not {self.same.dtype} and {self.fold.dtype}")
        if not np.array_equal(np.unique(self.fold[self.fold >= 0]), np.arange(max(self.folds, 1))):
            raise PairsError("the folds of pairs are not numbered 0, 1, 2 ... without a gap")
        for name in {*self.left, *self.right}:
            if name.startswith("/") or any(FORBIDDEN.search(part) for part in name.split("/")):
                raise PairsError("may lie outside the folder of photos", where=name, remedy="use a plain relative name")

    def __len__(self) -> int:
        return len(self.left)

    @property
    def folds(self) -> int:
        """Number of folds that are tested."""
        return int(self.fold.max()) + 1

    @property
    def photos(self) -> list[str]:
        """The distinct photo names, sorted."""
        return sorted({*self.left, *self.right})

    @property
    def tested(self) -> Pairs:
        """The pairs that are tested: all of them, unless some only help to choose thresholds."""
        keep = self.fold >= 0
        return self if keep.all() else self[keep]

    def __getitem__(self, keep: NDArray[np.bool_]) -> Pairs:
        """The pairs for which `keep` (P,) is true."""
        left, right = (tuple(compress(side, keep.tolist())) for side in (self.left, self.right))
        return Pairs(left, right, self.same[keep], self.fold[keep])

    @cached_property
    def people(self) -> People:
        """Who is in the pairs: photos of one folder, and photos that a pair calls the same, show one person.

        Where a pair of two people lies in one folder, folders are not people, and only the pairs tell.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        photos = self.photos
        row = {photo: i for i, photo in enumerate(photos)}
        left, right = (np.array([row[name] for name in side]) for side in (self.left, self.right))
        folders = [posixpath.dirname(photo) or photo for photo in photos]
        folder = np.unique(folders, return_inverse=True)[1]
        links = [(left[self.same], right[self.same])]
        if not (folder[left] == folder[right])[~self.same].any():
            first = np.unique(folder, return_index=True)[1]
            links.append((np.arange(len(photos)), first[folder]))
        start, end = (np.concatenate(side) for side in zip(*links, strict=True))
        graph = coo_array((np.ones(len(start)), (start, end)), shape=(len(photos),) * 2)
        count, person = connected_components(graph, directed=False)
        members: list[list[str]] = [[] for _ in range(count)]
        for name, number in zip(folders if len(links) > 1 else photos, person, strict=True):
            members[number].append(name)
        names = tuple((posixpath.commonpath(shown) if len(links) > 1 else "") or shown[0] for shown in members)
        return People(names, person[left].astype(np.int64), person[right].astype(np.int64))
