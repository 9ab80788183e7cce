"""The features of a teacher as an artefact: written by the stage `teach`, memory-mapped by training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.inputs import PackFolder, StageInput
from sfplus.artifacts.layout import CROP_COLUMNS, CROP_TABLE
from sfplus.datasets.formats.pack import read_manifest
from sfplus.errors import ArtefactError, DatasetError
from sfplus.io.files import digest_json
from sfplus.io.json_files import read_json
from sfplus.io.tables import Column, read_parquet

FEATURES, INDEX, ABOUT = "features.npy", "index.parquet", "teacher.json"


class _About(TypedDict):
    """What the features are those of."""

    crops: str  # the digest of `crop_origin`
    sha256: str  # of the teacher
    licence: str


def crop_names(crops: StageInput) -> list[str]:
    """Return the names of the crops of an `align` artefact; of a pack, the numbers of its rows."""
    if isinstance(crops, PackFolder):
        return [str(row) for row in range(read_manifest(crops.root)["crops"])]
    assert isinstance(crops, Artefact)
    names: list[str] = read_parquet(crops.folder / CROP_TABLE, CROP_COLUMNS)["crop"]
    return names


def crop_origin(crops: StageInput) -> str:
    """Return a digest of the photos and faces of crops, the same for every template; of a pack, its content."""
    return digest_json(crops.manifest["inputs"]) if isinstance(crops, Artefact) else crops.content


class TeacherFeatures:
    """The features of a teacher, in the order of the crops that are trained on.

    Args:
        artefact: an artefact of the stage `teach`.
        crops: the crops that are trained on, which may follow another template than those of the teacher.
        names: the names of the crops of the training set, in order.

    Attributes:
        size: length F of a feature.
        digest: digest of the artefact.

    Raises:
        ArtefactError: If a file is missing or damaged.
        DatasetError: If the features are those of other photos or faces, or a crop has none; the first is named.
    """

    def __init__(self, artefact: Artefact, crops: StageInput, names: Sequence[str]) -> None:
        self._artefact, self._folder, self.digest = artefact, artefact.folder, artefact.content
        if self._about["crops"] != crop_origin(crops):
            reason = "these features of the teacher are those of other photos or faces than the crops to train on"
            raise DatasetError(reason, where=self._folder, remedy="compute them for these crops: run the recipe again")
        index = read_parquet(self._folder / INDEX, {"crop": Column(str)})["crop"]
        row_of = {name: row for row, name in enumerate(index)}
        try:
            self._table = np.load(self._folder / FEATURES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self._damaged(f"cannot be read ({error})") from error
        if self._table.ndim != 3 or self._table.dtype != np.float16 or len(self._table) != len(row_of):
            raise self._damaged(f"holds {self._table.dtype} {self._table.shape} for {len(row_of)} crops")
        self.size = int(self._table.shape[2])
        if missing := [name for name in names if name not in row_of]:
            reason = f"{len(missing)} of {len(names)} crops have no feature of the teacher, the first is {missing[0]}"
            raise DatasetError(
                reason, where=self._folder, remedy="exclude these people, or look at the teacher's crops"
            )
        self._rows = np.array([row_of[name] for name in names], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def about(self) -> dict[str, str]:
        """The name, the digest and the licence of the teacher; an unknown licence is empty."""
        name = Path(self._artefact.manifest["sources"]["model"]).name
        return {"name": name, "sha256": self._about["sha256"], "licence": self._about["licence"]}

    def batch(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the directions of crops (B,), each the mean of those of the crop and its mirror image: (B, F).

        Raises:
            ArtefactError: If a feature is not finite.
        """
        sides = self._table[self._rows[indices]].astype(np.float32)
        if not np.isfinite(sides).all():
            raise self._damaged("holds a feature that is not finite")
        mean: NDArray[np.float32] = sides.sum(1)
        directions: NDArray[np.float32] = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        return directions

    @cached_property
    def _about(self) -> _About:
        return read_json(self._folder / ABOUT, _About, remedy=self._remedy)

    @property
    def _remedy(self) -> str:
        return f"delete {self._folder} and run again"

    def _damaged(self, reason: str) -> ArtefactError:
        return ArtefactError(reason, where=self._folder / FEATURES, remedy=self._remedy)
