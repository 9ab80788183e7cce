"""The grouped faces of a folder of photos, as `sfplus group` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from safetensors import safe_open
from typing_extensions import TypedDict

from sfplus.artifacts.layout import FEATURES
from sfplus.errors import ArtefactError, UsageError, explain_damage, short_repr
from sfplus.images import CACHE
from sfplus.io.files import atomic_file, write_json
from sfplus.io.json_files import RelativeName, read_json
from sfplus.io.tables import AnyText, Column, read_parquet, write_parquet
from sfplus.verification.decision import DecisionRule

PEOPLE_PARQUET = "people.parquet"
_FOLDER = f"{CACHE}/group"
_STATE, _ASSIGNMENTS, _RESOLVED, _NEIGHBOURS = (f"{_FOLDER}/{name}" for name in (
    "group.json", "assignments.parquet", "resolved.json", "neighbours.safetensors"
))  # fmt: skip
_VERSION = 1
_REMEDY = "run sfplus group again"
_COLUMNS = {
    "photo": Column(str), "face": Column(int, optional=True), "person": Column(str), "name": Column(str),
    "confidence": Column(float, optional=True), "box": Column(float, 4, optional=True), "crop": Column(str),
    "digest": Column(str),
}  # fmt: skip

Table = dict[str, list[Any]]


class _Config(TypedDict, total=False):
    verification: dict[str, Any] | None
    feature_size: Annotated[int, Field(gt=0, le=1 << 20)] | None


class _Counts(TypedDict):
    undetected: int
    failed: int


class _Model(TypedDict):
    name: AnyText
    network: AnyText
    input: str
    content: str
    config: _Config


class _State(TypedDict):
    """The content of _STATE."""

    version: int
    photos: AnyText
    model: _Model
    features_folder: RelativeName
    counts: _Counts
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None
    copy: bool
    linked_above: Annotated[float, Field(allow_inf_nan=False)] | None


@dataclass(frozen=True, eq=False)
class GroupedPhotos:
    """The faces of a folder of photos with the person of each.

    Attributes:
        folder: The folder of the results, OUT of `sfplus group`.
        photos: The folder of the photos.
        model: The model that computed the features: `name`, `network`, `input`, `content`, `config`.
        features_folder: The folder of the features, relative to `folder`.
        table: The columns of `people.parquet`, a row for each face: `photo` relative to the folder of photos, `face`
            (its number in the photo), `person` (id), `name`, `confidence`, `box` (x1, y1, x2, y2 in pixels) and `crop`
            relative to `folder`; and `digest` of the photo.
        counts: `undetected` and `failed` photos.
        threshold: The similarity above which faces are linked, if the user gave one.
        copy: Whether the folders of people hold copies of the photos and not links.
        linked_above: The similarity above which faces are linked; None before they are grouped.
    """

    folder: Path
    photos: Path
    model: dict[str, Any]
    features_folder: str
    table: Table = field(repr=False)
    counts: dict[str, int]
    threshold: float | None = None
    copy: bool = False
    linked_above: float | None = None

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether a folder is the result of `sfplus group`."""
        return (folder / _STATE).is_file()

    @classmethod
    def load(cls, folder: Path) -> GroupedPhotos:
        """Load the results of `sfplus group`.

        Raises:
            UsageError: If the folder is not such a result.
            ArtefactError: If a file in it is missing or damaged.
        """
        if not cls.exists(folder):
            remedy = f"group photos first: sfplus group PHOTOS {folder}"
            raise UsageError("is not a folder of grouped photos", where=folder, remedy=remedy)
        state: dict[str, Any] = dict(read_json(folder / _STATE, _State, remedy=_REMEDY))
        if state.pop("version") != _VERSION:
            raise ArtefactError("is of another version of sfplus", where=folder / _STATE, remedy=_REMEDY)
        table = read_parquet(folder / PEOPLE_PARQUET, _COLUMNS, remedy=_REMEDY)
        if wrong := [name for name in (*table["photo"], *table["crop"]) if not name or "\0" in name]:
            raise ArtefactError(f"is damaged ({short_repr(wrong[0])})", where=folder / PEOPLE_PARQUET, remedy=_REMEDY)
        return cls(folder, Path(state.pop("photos")), table=table, **state)

    def save(self) -> None:
        """Write what `load` reads, atomically."""
        (self.folder / _FOLDER).mkdir(parents=True, exist_ok=True)
        names = ("model", "features_folder", "threshold", "copy", "counts", "linked_above")
        state = {"version": _VERSION, "photos": str(self.photos), **{name: getattr(self, name) for name in names}}
        write_json(self.folder / _STATE, state, indent=1)
        columns = self.table | {
            "face": pa.array(self.table["face"], pa.int64()),
            "confidence": pa.array(self.table["confidence"], pa.float32()),
        }
        with atomic_file(self.folder / PEOPLE_PARQUET) as part:
            write_parquet(part, columns)

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """The features, float32 (N, D), a row for each row of `table`.

        Raises:
            ArtefactError: If they are missing or damaged, or are not those of the table.
        """
        path = self.folder / self.features_folder / FEATURES
        with explain_damage(path, remedy=_REMEDY, error=ArtefactError), safe_open(path, "numpy") as file:
            features = np.asarray(file.get_tensor("features"))
        is_right = features.dtype == np.float32 and features.ndim == 2 and len(features) == len(self.table["photo"])
        size = len(self.rule.mean) if self.rule else features.shape[-1]
        if not (is_right and features.shape[1] == size > 0 and np.isfinite(features).all()):
            raise ArtefactError("is not that of these faces", where=path, remedy=_REMEDY)
        return features

    @cached_property
    def rule(self) -> DecisionRule | None:
        """The mean and the thresholds of the model; None for a model without.

        Raises:
            WeightsError: If its files are damaged.
        """
        return DecisionRule.load(self.folder, self.model["config"]) if not self.model["input"] else None

    @property
    def neighbours_file(self) -> Path:
        """The file of the nearest neighbours of all faces."""
        return self.folder / _NEIGHBOURS

    def read_assignments(self) -> dict[str, int]:
        """Return the number of the person of each face that was ever grouped, by `face_keys`."""
        path = self.folder / _ASSIGNMENTS
        if not path.is_file():
            return {}
        table = read_parquet(path, {"face": Column(str), "person": Column(int)}, remedy=f"delete it, then {_REMEDY}")
        return dict(zip(table["face"], table["person"], strict=True))

    def write_assignments(self, people: dict[str, int]) -> None:
        """Write the number of the person of each face."""
        with atomic_file(self.folder / _ASSIGNMENTS) as part:
            write_parquet(part, {"face": list(people), "person": list(people.values())})

    def read_resolved(self) -> dict[tuple[str, int, str], int]:
        """Return the numbers that a run, which did not end, gave to new people in corrections."""
        path = self.folder / _RESOLVED
        if not path.is_file():
            return {}
        rows = read_json(path, list[tuple[AnyText, int, str, int]], remedy=f"delete it, then {_REMEDY}")
        return {(photo, face, person): number for photo, face, person, number in rows}

    def write_resolved(self, numbers: Mapping[Any, int]) -> None:
        """Write the numbers of the people in corrections, or delete them once the corrections have ids."""
        if numbers:
            write_json(self.folder / _RESOLVED, [[*correction, number] for correction, number in numbers.items()])
        else:
            (self.folder / _RESOLVED).unlink(missing_ok=True)

    @cached_property
    def face_keys(self) -> list[str]:
        """A key for each face that stays the same if the photo is moved or renamed."""
        digests, faces = self.table["digest"], self.table["face"]
        return [f"{digest[:32]}/{face}" for digest, face in zip(digests, faces, strict=True)]
