"""Find people of a test set in a training set, by their names and by the mean features of their faces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

_BLOCK_SIZE = 1 << 24  # cosines in memory at a time
_MAX_SAMPLE = 3000  # people per set whose cosines to one another are computed
_MIN_PAIRS = 5  # pairs of different people that must reach the threshold


def name_key(name: str) -> tuple[str, ...]:
    """Return the words of a person's name in a canonical form, to compare names that are written differently.

    Case, accents, separators and the order of the words are ignored, and so are digits after at least two words
    (`Ana_Bo_0002`); a name that is one word with digits (`n000123`) is kept.

    Returns:
        The words, sorted.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.rpartition("/")[2]) if not unicodedata.combining(c))
    words = [word for word in re.split(r"[^\w]+|_", plain.casefold()) if word]
    while len(words) > 2 and words[-1].isdecimal():
        words.pop()
    return tuple(sorted(words))


def match_names(train: Sequence[str], test: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of indices (into `train`, into `test`) whose names have the same key, in the order of `train`.

    Numbers (`0000001`, as labels without names are written) match nothing, since they identify nobody.
    """
    columns: dict[tuple[str, ...], list[int]] = {}
    for column, name in enumerate(test):
        if not is_numeric_name(name):
            columns.setdefault(name_key(name), []).append(column)
    return [(row, column) for row, name in enumerate(train) for column in columns.get(name_key(name), ())]


def is_numeric_name(name: str) -> bool:
    """Return True if a name consists of digits only, or has no words."""
    return all(word.isdecimal() for word in name_key(name))


class PersonMeans:
    """Mean features of people, and of two halves of the images of each person, accumulated one feature at a time.

    Attributes:
        people: names in the order of their first features.
        counts: number of features of each person.
    """

    def __init__(self) -> None:
        self.people: list[str] = []
        self.counts: list[int] = []
        self._row: dict[str, int] = {}
        self._sums: list[Features] = []

    def __len__(self) -> int:
        return len(self.people)

    def add(self, person: str, feature: Features) -> None:
        """Add a feature (F,) float32 of a person, normalised to unit length."""
        row = self._row.setdefault(person, len(self.people))
        if row == len(self.people):
            self.people.append(person)
            self.counts.append(0)
            self._sums.append(np.zeros((2, len(feature)), np.float32))
        self._sums[row][self.counts[row] % 2] += feature / max(float(np.linalg.norm(feature)), 1e-12)
        self.counts[row] += 1

    def means(self) -> Features:
        """Return the mean feature of each person, float32 (P, F)."""
        means: Features = np.stack(self._sums).sum(1) / np.array(self.counts, np.float32)[:, None]
        return means

    def half_means(self) -> tuple[Features, Features]:
        """Return the means of the even and of the odd features of each person with two or more, both float32 (Q, F)."""
        rows = np.flatnonzero(np.array(self.counts) > 1)
        sums, counts = np.stack(self._sums)[rows], np.array(self.counts)[rows][:, None]
        return sums[:, 0] / np.float32((counts + 1) // 2), sums[:, 1] / np.float32(counts // 2)


@dataclass(frozen=True)
class Threshold:
    """The cosine from which two people are suspected to be the same, with its estimated errors on these two sets.

    Attributes:
        value: the cosine.
        false_match_rate: share of pairs of different people that reach it.
        recall: share of people whose two half means reach it, which estimates the share of matches that are detected;
            nan if no person has two images.
        different_pairs: number of pairs behind `false_match_rate`.
        people: number of people behind `recall`.
    """

    value: float
    false_match_rate: float
    recall: float
    different_pairs: int
    people: int


def choose_threshold(train: PersonMeans, test: PersonMeans, false_alarms: float) -> Threshold:
    """Choose the threshold at which `false_alarms` people of `train` are expected to match a person of `test` wrongly.

    The pairs of different people are pairs within one set, of at most 3,000 people each: a set contains each person
    once, apart from label errors, which make the threshold higher. The share of pairs that may reach the threshold is
    `false_alarms` divided by the number of people of `train`, but at least five of the pairs.

    Args:
        train: people of the training set.
        test: people of the test set.
        false_alarms: expected number of wrong matches for one person of `test`, over all people of `train`.
    """
    centre = _centre(train, test)
    rng = np.random.default_rng(0)
    cosines = []
    for people in (train, test):
        sample = rng.permutation(len(people))[:_MAX_SAMPLE]
        units = _unit_vectors(people.means()[np.sort(sample)], centre)
        cosines.append((units @ units.T)[np.triu_indices(len(units), 1)])
    different = np.concatenate(cosines)
    reaching = max(round(min(false_alarms / len(train), 1) * len(different)), _MIN_PAIRS)
    too_few = len(different) <= _MIN_PAIRS
    value = 1.0 if too_few else float(np.partition(different, -reaching)[-reaching])
    halves = [people.half_means() for people in (train, test)]
    left, right = (_unit_vectors(np.concatenate([half[side] for half in halves]), centre) for side in range(2))
    same = np.einsum("nf,nf->n", left, right)
    return Threshold(
        value,
        false_match_rate=float((different >= value).mean()) if len(different) else 0.0,
        recall=float((same >= value).mean()) if len(same) else float("nan"),
        different_pairs=len(different),
        people=len(same),
    )


def match_features(train: PersonMeans, test: PersonMeans, threshold: float) -> list[tuple[int, int, float]]:
    """Return the pairs (index into `train`, index into `test`, cosine) that reach a threshold, largest cosine first.

    The mean over all people is subtracted from the mean features first. Cosines are computed in blocks of people of
    `train`, so that memory does not grow with the product of the two numbers.
    """
    centre = _centre(train, test)
    left, right = _unit_vectors(train.means(), centre), _unit_vectors(test.means(), centre)
    step = max(1, _BLOCK_SIZE // len(right))
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(left), step):
        cosines = left[start : start + step] @ right.T
        rows, columns = np.nonzero(cosines >= threshold)
        pairs += zip((rows + start).tolist(), columns.tolist(), cosines[rows, columns].tolist(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[2])


def _centre(train: PersonMeans, test: PersonMeans) -> Features:
    """Return the mean over people, with equal weight for both sets.

    Features of small networks have a large component in common, which hides the differences between people.
    """
    centre: Features = (train.means().mean(0) + test.means().mean(0)) / 2
    return centre


def _unit_vectors(means: Features, centre: Features) -> Features:
    centred = means - centre
    units: Features = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return units
