"""Group the faces of a folder, apply names and corrections, and write tables, folders of people and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sfplus.images import CACHE
from sfplus.io.files import write_atomically
from sfplus.io.locks import file_lock
from sfplus.people.assignment import Numbers, assign_people
from sfplus.people.gallery import draw_gallery
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.grouping import estimate_different, group_faces, link_threshold, similarity_to_group
from sfplus.people.names import (
    Correction,
    person_id,
    person_number,
    read_corrections,
    read_names,
    write_corrections,
    write_names,
)
from sfplus.people.neighbours import Neighbours, find_neighbours
from sfplus.people.people_list import People
from sfplus.people.photo_folders import folder_name, write_photo_folders

PEOPLE_HTML = "people.html"

Floats = NDArray[np.float32]


def regroup(out: Path) -> GroupedPhotos:
    """Group the faces of a folder anew, with the names and corrections in its files; nothing is detected again.

    Args:
        out: The folder of the results, OUT of `sfplus group`.

    Raises:
        UsageError: If the folder is not such a result.
        ArtefactError: If a file of the results is missing or damaged.
        DatasetError: If `people.csv` or `corrections.csv` cannot be read.
    """
    with file_lock(out / CACHE / "group.lock"):
        grouped = GroupedPhotos.load(out)
        names, corrections = read_names(out), read_corrections(out)
        features = unit_features(grouped)
        neighbours = find_neighbours(features, Neighbours.load(grouped.neighbours_file))
        neighbours.save(grouped.neighbours_file)
        threshold = _choose_threshold(grouped, features)
        groups = group_faces(neighbours, threshold)
        assignments = grouped.read_assignments()
        memory = _Memory(names, assignments, corrections, grouped.read_resolved())
        earlier = memory.people_of(grouped.face_keys)
        pinned, corrections = memory.pin(grouped, earlier, corrections)
        numbers, _ = assign_people(groups, features, earlier, pinned, memory.next_number)
        grouped.write_resolved(memory.resolved)
        grouped.write_assignments(assignments | dict(zip(grouped.face_keys, numbers.tolist(), strict=True)))
        people = People.count(numbers, grouped, memory.names)
        table = grouped.table | {
            "person": [person_id(number) for number in numbers.tolist()],
            "name": [memory.names.get(number, "") for number in numbers.tolist()],
            "confidence": _confidence(grouped, features, people.index, neighbours),
        }
        grouped = replace(grouped, table=table, linked_above=threshold)
        _write(grouped, people, corrections)
        grouped.write_resolved({})
        return grouped


def unit_features(grouped: GroupedPhotos) -> Floats:
    """Return the features of unit length after the mean of the model is subtracted."""
    features = grouped.features - grouped.rule.mean if grouped.rule else grouped.features.copy()
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(features, np.float32)


def _choose_threshold(grouped: GroupedPhotos, features: Floats) -> float:
    """Return the similarity above which faces are linked: the user's, or that of `link_threshold`."""
    if grouped.threshold is not None:
        return grouped.threshold
    if grouped.rule and grouped.rule.has_scores:
        different = grouped.rule.different.astype(np.float64)
        return link_threshold(float(different.mean()), float(different.std()), len(features))
    return link_threshold(*estimate_different(features), len(features))


class _Memory:
    """The people of earlier runs.

    Attributes:
        names: The name of each named person, by the smallest number that has it.
        next_number: The smallest number that no person has had yet.
        resolved: The number of the person of each correction, which a run that is killed leaves to the next one.
    """

    def __init__(
        self,
        names: dict[int, str],
        assignments: dict[str, int],
        corrections: Sequence[Correction],
        resolved: dict[tuple[str, int, str], int],
    ) -> None:
        self._number_of_name: dict[str, int] = {}
        for number in sorted(names):
            self._number_of_name.setdefault(names[number], number)
        self._joined = {number: self._number_of_name[name] for number, name in names.items()}
        self.names = {number: name for name, number in self._number_of_name.items()}
        self._assignments = assignments
        self.resolved = {correction: resolved[correction] for correction in corrections if correction in resolved}
        corrected = [person_number(correction.person) or 0 for correction in corrections]
        corrected += self.resolved.values()
        self.next_number = 1 + max([0, *names, *assignments.values(), *corrected])

    def people_of(self, keys: Sequence[str]) -> Numbers:
        """Return the number of the person of each face, -1 for new faces."""
        numbers = (self._assignments.get(key, -1) for key in keys)
        return np.fromiter((self._joined.get(number, number) for number in numbers), np.int64, len(keys))

    def pin(
        self, grouped: GroupedPhotos, earlier: Numbers, corrections: Sequence[Correction]
    ) -> tuple[Numbers, list[Correction]]:
        """Return the person of each face that must stay with its person, else -1; and the corrections with ids."""
        pinned = np.where(np.isin(earlier, list(self.names)), earlier, -1)
        faces = zip(grouped.table["photo"], grouped.table["face"], strict=True)
        rows = {face: row for row, face in enumerate(faces)} if corrections else {}
        resolved = []
        for correction in corrections:
            number = self.resolved[correction] = self._find(correction)
            row = rows.get((correction.photo, correction.face))
            if row is not None:
                pinned[row] = number
            resolved.append(correction._replace(person=person_id(number)))
        return pinned, resolved

    def _find(self, correction: Correction) -> int:
        """Return the number of an id or name; a new one for a new name and for somebody else."""
        person = correction.person
        number = person_number(person)
        if number is not None:
            return self._joined.get(number, number)
        if person in self._number_of_name:
            return self._number_of_name[person]
        number = self.resolved.get(correction, self.next_number)
        self.next_number = max(self.next_number, number + 1)
        if person:
            self._number_of_name[person] = number
            self.names[number] = person
        return number


def _confidence(
    grouped: GroupedPhotos, features: Floats, groups: Numbers, neighbours: Neighbours
) -> list[float | None]:
    """Return the probability that each face shows its person; of a single face, that it is nobody else of the folder.

    It is that of the similarity to the mean of the person's other faces, before which all people are equally likely.
    """
    rule = grouped.rule
    if rule is None or not rule.has_scores:
        return [None] * len(groups)
    prior = np.log(max(len(np.unique(groups)) - 1, 1))
    similarities = similarity_to_group(features, groups)
    is_single = np.isnan(similarities)
    nearest = neighbours.similarities.max(1, initial=-1.0)
    probability = expit(rule.log_likelihood_ratio(np.where(is_single, nearest, similarities)) - prior)
    confidence: list[float | None] = np.where(is_single, 1 - probability, probability).astype(np.float32).tolist()
    return confidence


def _write(grouped: GroupedPhotos, people: People, corrections: Sequence[Correction]) -> None:
    out = grouped.folder
    grouped.save()
    counts = (people.photos.tolist(), people.faces.tolist())
    rows = list(zip(people.numbers.tolist(), people.names, *counts, strict=True))
    write_names(out, rows)
    write_corrections(out, corrections)
    folders = _name_folders(people)
    with_folder = np.flatnonzero((people.photos > 1) | np.array([bool(name) for name in people.names], bool))
    faces = np.flatnonzero(np.isin(people.index, with_folder))
    photos = grouped.table["photo"]
    links = {f"{folders[people.index[row]]}/{photos[row]}": photos[row] for row in faces.tolist()}
    write_photo_folders(out, grouped.photos, links, grouped.copy)
    write_atomically(out / PEOPLE_HTML, draw_gallery(grouped, people, corrections).encode())


def _name_folders(people: People) -> list[str]:
    """Return the folder of each person: the name, or the id where there is none or several give the same folder."""
    names = [
        folder_name(name) if name else person_id(number)
        for number, name in zip(people.numbers.tolist(), people.names, strict=True)
    ]
    counts = Counter(name.casefold() for name in names)
    return [
        f"{name} ({person_id(number)})" if counts[name.casefold()] > 1 else name
        for name, number in zip(names, people.numbers.tolist(), strict=True)
    ]
