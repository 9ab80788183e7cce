"""The people of a folder, with their numbers of photos and faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfplus.people.assignment import Numbers
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.names import person_number


@dataclass(frozen=True, eq=False)
class People:
    """The people of a folder, those with the most photos first.

    Attributes:
        numbers: int64 (P,), their numbers.
        names: Their names, empty for those without.
        photos: int64 (P,), the photos of each.
        faces: int64 (P,), the faces of each.
        index: int64 (N,), the row of the person of each face.
        photo_index: int64 (N,), a number for the photo of each face.
    """

    numbers: Numbers
    names: Sequence[str]
    photos: Numbers
    faces: Numbers
    index: Numbers
    photo_index: Numbers

    @classmethod
    def of(cls, grouped: GroupedPhotos) -> People:
        """Count the people of grouped photos."""
        numbers = [person_number(person) or 0 for person in grouped.table["person"]]
        names = {number: name for number, name in zip(numbers, grouped.table["name"], strict=True) if name}
        return cls.count(np.array(numbers, np.int64), grouped, names)

    @classmethod
    def count(cls, people: Numbers, grouped: GroupedPhotos, names: dict[int, str]) -> People:
        """Count the photos and faces of each person; people who have a name but no face are the last."""
        _, photo_index = np.unique(np.array(grouped.table["photo"], object), return_inverse=True)
        numbers = np.unique(np.concatenate([people, np.array(sorted(names), np.int64)]).astype(np.int64))
        index = np.searchsorted(numbers, people)
        faces = np.bincount(index, minlength=len(numbers))
        pairs = np.unique(np.stack([index, photo_index.ravel()], 1), axis=0)
        photos = np.bincount(pairs[:, 0], minlength=len(numbers))
        order = np.lexsort((numbers, -faces, -photos))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        ordered = [names.get(number, "") for number in numbers[order].tolist()]
        return cls(numbers[order], ordered, photos[order], faces[order], rank[index], photo_index.ravel())
