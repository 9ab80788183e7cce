"""The results of commands on photos that are printed as JSON: `compare`, `find` and `group`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ComparedFace:
    """A face of a photo that was compared.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the photo.
        compared: Whether it is the face that was compared; `--choose` says which.
        similarity: Its similarity to the face that was compared of the other photo, from -1 to 1.
    """

    box: list[float]
    compared: bool
    similarity: float


@dataclass(frozen=True)
class ComparedPhoto:
    """A photo that was compared.

    Attributes:
        photo: The file.
        faces: All faces in it.
        crop: The file with the crop of the compared face; null without `--out`.
    """

    photo: str
    faces: list[ComparedFace]
    crop: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """The result of `sfplus compare`.

    Attributes:
        model: The model.
        similarity: The similarity of the two faces, from -1 to 1.
        same: Whether it is above the threshold; null if the model has none.
        threshold: The threshold; null if the model has none.
        far: The false accept rate that was asked for; null without `--far`.
        photos: The two photos.
    """

    model: str
    similarity: float
    same: bool | None
    threshold: float | None
    far: float | None
    photos: list[ComparedPhoto]


@dataclass(frozen=True)
class FoundPhoto:
    """A photo of the person that `sfplus find` searches.

    Attributes:
        photo: The photo, below the folder that was searched.
        face: The number of the face in the photo.
        similarity: Its similarity to the photos of the person, from -1 to 1.
        probability: The probability that it shows this person; null if the model has no scores.
    """

    photo: str
    face: int | None
    similarity: float
    probability: float | None


@dataclass(frozen=True)
class FoundPhotos:
    """The result of `sfplus find`.

    Attributes:
        photos: The photos, the best first; found.csv has the same.
        page: The page with the photos.
    """

    photos: list[FoundPhoto]
    page: Path


@dataclass(frozen=True)
class GroupSummary:
    """The result of `sfplus group`; the people are in people.csv and people.parquet.

    Attributes:
        faces: The number of faces.
        people: The number of people with two photos or more.
        once: The number of people who are seen once.
        undetected: The number of photos without a face.
        failed: The number of photos that could not be used.
        threshold: The similarity above which faces are linked.
        page: The page with the people.
    """

    faces: int
    people: int
    once: int
    undetected: int
    failed: int
    threshold: float
    page: Path
