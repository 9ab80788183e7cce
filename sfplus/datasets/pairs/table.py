"""Pairs of photos, and the people in them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import PairsError
from sfplus.io.console import quantity

FORBIDDEN = re.compile(r"[/\\\x00]|^\.{1,2}$|^[A-Za-z]:|^$")
"""Parts of a path that may point outside the folder of photos."""
_DEFAULT_FOLDS = 10


class People(NamedTuple):
    """The people in pairs.

    Attributes:
        names: their names.
        left: (P,) int64, the person of the left photo of each pair, as an index into `names`.
        right: (P,) int64, the person of the right photo.
    """

    names: tuple[str, ...]
    left: NDArray[np.int64]
    right: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of photos to verify.

    Attributes:
        left: (P,) names of photos as in the list, relative to the folder of photos; the extension is optional.
        right: (P,) names of the second photos.
        same: (P,) bool, True if both photos show the same person.
        fold: (P,) int64, 0-based fold; the folds are numbered without a gap. A pair of fold -1 - k belongs to fold k,
            but is only used to choose thresholds and is never tested.

    Raises:
        PairsError: If lengths or types do not agree, or a name may point outside the folder of photos.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = (len(self.left),)
        if not self.left or len(self.right) != shape[0] or self.same.shape != shape or self.fold.shape != shape:
            raise PairsError(
                f"pairs need equal, non-zero lengths, got left {shape[0]}, right {len(self.right)}, "
                f"same {self.same.shape}, fold {self.fold.shape}"
            )
        if self.same.dtype != np.bool_ or self.fold.dtype != np.int64:
            raise PairsError(f"pairs need bool same and int64 fold, got {self.same.dtype} and {self.fold.dtype}")
        if not np.array_equal(np.unique(self.fold[self.fold >= 0]), np.arange(max(self.folds, 1))):
            raise PairsError("the folds of pairs are not numbered 0, 1, 2 ... without a gap")
        for name in {*self.left, *self.right}:
            if name.startswith("/") or any(FORBIDDEN.search(part) for part in name.split("/")):
                reason = "may point outside the folder of photos"
                raise PairsError(reason, where=name, remedy="use a plain relative name")

    def __len__(self) -> int:
        return len(self.left)

    @property
    def folds(self) -> int:
        """Number of folds with tested pairs."""
        return int(self.fold.max()) + 1

    @property
    def photos(self) -> list[str]:
        """Distinct photo names, sorted."""
        return sorted({*self.left, *self.right})

    @property
    def tested(self) -> Pairs:
        """The pairs that are tested, without those that only choose thresholds."""
        keep = self.fold >= 0
        return self if keep.all() else self[keep]

    def __getitem__(self, keep: NDArray[np.bool_]) -> Pairs:
        """Return the pairs for which `keep` (P,) is True."""
        left, right = (tuple(compress(side, keep.tolist())) for side in (self.left, self.right))
        return Pairs(left, right, self.same[keep], self.fold[keep])

    def renamed(self, names: Mapping[str, str]) -> Pairs:
        """Return the pairs with other names of the photos; photos that `names` does not hold keep theirs."""
        left, right = (tuple(names.get(name, name) for name in side) for side in (self.left, self.right))
        return replace(self, left=left, right=right)

    def check_kinds(self, where: Path) -> None:
        """Check that there are pairs of the same person and of different people, which verification needs.

        Raises:
            PairsError: If the tested pairs are of one kind.
        """
        same = self.tested.same
        if same.all() or not same.any():
            present, absent = ("the same person", "different people")[:: 1 if same.all() else -1]
            reason = f"holds only pairs of {present}, and accuracy needs pairs of {absent} too"
            raise PairsError(reason, where=where, remedy="add such pairs, or check the labels (1: same, 0: different)")

    @cached_property
    def people(self) -> People:
        """The people in the pairs.

        Photos in the same folder, and photos that form a pair of the same person, show the same person. If a pair of
        different people is in the same folder, folders are not people and only the pairs count.
        """
        from scipy import sparse  # start-up time: commands that only plan a run import this module

        photos = self.photos
        row = {photo: i for i, photo in enumerate(photos)}
        left, right = (np.array([row[name] for name in side]) for side in (self.left, self.right))
        folders = [posixpath.dirname(photo) or photo for photo in photos]
        folder = np.unique(folders, return_inverse=True)[1]
        edges = [(left[self.same], right[self.same])]
        by_folder = not (folder[left] == folder[right])[~self.same].any()
        if by_folder:
            first = np.unique(folder, return_index=True)[1]
            edges.append((np.arange(len(photos)), first[folder]))
        start, end = (np.concatenate(side) for side in zip(*edges, strict=True))
        graph = sparse.coo_array((np.ones(len(start)), (start, end)), shape=(len(photos),) * 2)
        count, person = sparse.csgraph.connected_components(graph, directed=False)
        members: list[list[str]] = [[] for _ in range(count)]
        for name, number in zip(folders if by_folder else photos, person, strict=True):
            members[number].append(name)
        names = tuple((posixpath.commonpath(paths) if by_folder else "") or paths[0] for paths in members)
        return People(names, person[left].astype(np.int64), person[right].astype(np.int64))


def split_into_folds(same: NDArray[np.bool_], count: int = 0) -> NDArray[np.int64]:
    """Split pairs of each kind, in their order, into folds of equal size.

    Args:
        same: (P,) bool.
        count: the number of folds; 0 for 10, or fewer if there are fewer pairs of a kind.

    Returns:
        (P,) int64, the 0-based fold of each pair.

    Raises:
        PairsError: If a kind has fewer pairs than folds.
    """
    sizes = int(same.sum()), int((~same).sum())
    if count > min(sizes):
        reason = f"{quantity(sizes[0], 'pair')} of the same person and {sizes[1]} of different people"
        raise PairsError(f"{reason} cannot be split into {count} folds", remedy="ask for fewer folds")
    folds = count or max(1, min(_DEFAULT_FOLDS, *sizes))
    fold = np.empty(len(same), np.int64)
    for kind, size in ((same, sizes[0]), (~same, sizes[1])):
        fold[kind] = np.arange(size) * folds // max(size, 1)
    return fold
