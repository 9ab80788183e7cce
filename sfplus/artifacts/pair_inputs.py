"""Inputs of verification: a pair list whose names are matched with photos, and the crops of a `.bin` file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.artifacts.inputs import InputFile, PhotoFolder
from sfplus.artifacts.layout import photo_stem
from sfplus.datasets.pairs import Match, Pairs, match_photos, pair_files, read_pairs
from sfplus.datasets.verification_bin import unpack_bin
from sfplus.errors import PairsError
from sfplus.images import list_photos
from sfplus.io.files import atomic_folder, digest_json, file_digest


def pairs_content(pairs: Path) -> str:
    """Return the digest of the files of a pair list, by which reports and models identify their pairs."""
    return InputFile(pairs, pair_files(pairs)).content


class PairList(InputFile):
    """A pair list of the user's, with the folder of its photos.

    Args:
        path: The list.
        photos: The folder of photos; None if the names are those of features already.
        folds: The number of folds to split the pairs into; 0 for those of the list.
        may_miss: Whether names without a photo are accepted, as long as others have one.
    """

    def __init__(self, path: Path, photos: Path | None = None, folds: int = 0, may_miss: bool = False) -> None:
        super().__init__(path, pair_files(path))
        self.root, self._folds, self._may_miss = photos, folds, may_miss

    @cached_property
    def listed(self) -> Pairs:
        """The pairs with the names of the list.

        Raises:
            PairsError: If the list is malformed, or holds one kind of pairs only.
        """
        pairs = read_pairs(self.path, self._folds)
        pairs.check_kinds(self.path)
        return pairs

    @cached_property
    def match(self) -> Match | None:
        """The photos of the names; None without a folder of photos.

        Raises:
            PairsError: If a name has no photo, or several.
            DatasetError: If the folder cannot be listed.
        """
        if self.root is None:
            return None
        photos = list_photos(self.root)
        match = match_photos(self.listed.photos, photos)
        match.check(photos, self.path, self.root, may_miss=self._may_miss)
        return match

    @property
    def photos(self) -> list[str]:
        """The photos that the pairs name, sorted; the list needs a folder of photos."""
        assert self.match is not None
        return sorted(set(self.match.photo.values()))

    @cached_property
    def content(self) -> str:
        """A digest of the file, and of folds and matched names that do not follow from it and from the photos."""
        digest, match = pairs_content(self.path), self.match
        photo_of = match.photo if match and match_photos(self.listed.photos, self.photos).photo != match.photo else {}
        return digest_json([digest, self._folds, photo_of]) if self._folds or photo_of else digest


class BinCrops(PhotoFolder):
    """The crops of a `.bin` file of insightface, written to the cache when they are needed.

    Args:
        path: The file.
        cache: The folder in which unpacked crops are kept, by the digest of their file.

    Attributes:
        path: The file.
        template: The template that the crops follow.
    """

    template = "arcface-112x112"

    def __init__(self, path: Path, cache: Path) -> None:
        super().__init__(cache, cache)
        self.path, self._cache = path, cache

    @cached_property
    def content(self) -> str:
        """SHA-256 of the file.

        Raises:
            PairsError: If it cannot be read.
        """
        self.see(self.path)
        try:
            return file_digest(self.path)
        except OSError as error:
            raise PairsError(f"cannot be read ({error.strerror})", where=self.path, remedy="check the path") from error

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of the file with the name of each crop."""
        return {name: f"{self.content} {name}" for name in self.photos}

    @cached_property
    def photos(self) -> list[str]:
        """The crops; the first use unpacks them.

        Raises:
            PairsError: If the file is not a verification set.
        """
        self.root = self._cache / self.content[:20]
        if not self.root.is_dir():
            with atomic_folder(self.root, replace=True) as folder:
                unpack_bin(self.path, folder)
        return list_photos(self.root)

    def describe(self) -> str:
        """Return the file."""
        return str(self.path)


def locate_pairs(source: InputFile, photos: Sequence[str]) -> tuple[Pairs, NDArray[np.int64]]:
    """Read pairs and find the row of each photo.

    Args:
        source: A pair list of the user's, or the list of a drawn sample.
        photos: The photos of the rows.

    Returns:
        The pairs with the names of the list, and int64 (2, P): the rows of the left and right photos, -1 for none.
    """
    if isinstance(source, PairList):
        pairs, photo_of = source.listed, source.match.photo if source.match else None
    else:
        pairs, photo_of = read_pairs(source.path), None
    row_of = {photo if photo_of else photo_stem(photo): row for row, photo in enumerate(photos)}
    names = {name: row_of.get(photo_of.get(name, "") if photo_of else name, -1) for name in pairs.photos}
    return pairs, np.array([[names[name] for name in side] for side in (pairs.left, pairs.right)], np.int64)
