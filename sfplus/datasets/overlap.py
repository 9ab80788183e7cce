"""People of a test set who are in a training set too: by their names, and by their faces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

_BLOCK = 1 << 24  # cosines in memory at a time
_SAMPLE = 3000  # people of a set whose cosines among one another are looked at
_LEAST = 5  # cosines above the threshold that it must rest on


def name_key(name: str) -> tuple[str, ...]:
    """What is left of a person's name when the ways of writing it are taken away.

    Case, accents, the order and the separators of words do not count, nor do digits after at least two words
    (`Ana_Bo_0002`); a name that is a number (`n000123`) stays as it is.

    Returns:
        The words, sorted.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.rpartition("/")[2]) if not unicodedata.combining(c))
    words = [word for word in re.split(r"[^\w]+|_", plain.casefold()) if word]
    while len(words) > 2 and words[-1].isdecimal():
        words.pop()
    return tuple(sorted(words))


def match_names(train: Sequence[str], test: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs (of `train`, of `test`) whose names have the same key, in the order of `train`.

    Mere numbers (`0000001`, as labels without names are written) are no names and match nothing; `n000123` is one.
    """
    known: dict[tuple[str, ...], list[int]] = {}
    for column, name in enumerate(test):
        if not is_number(name):
            known.setdefault(name_key(name), []).append(column)
    return [(row, column) for row, name in enumerate(train) for column in known.get(name_key(name), ())]


def is_number(name: str) -> bool:
    """Whether a name holds digits only, or nothing."""
    return all(word.isdecimal() for word in name_key(name))


class Means:
    """The mean feature of each person, and of two halves of each person's pictures, a batch at a time.

    Attributes:
        people: in the order in which they came.
        count: how many features there were of each.
    """

    def __init__(self) -> None:
        self.people: list[str] = []
        self.count: list[int] = []
        self._number: dict[str, int] = {}
        self._sums: list[Features] = []

    def __len__(self) -> int:
        return len(self.people)

    def add(self, person: str, feature: Features) -> None:
        """Take a feature (F,) float32 of a person; its length does not count."""
        number = self._number.setdefault(person, len(self.people))
        if number == len(self.people):
            self.people.append(person)
            self.count.append(0)
            self._sums.append(np.zeros((2, len(feature)), np.float32))
        self._sums[number][self.count[number] % 2] += feature / max(float(np.linalg.norm(feature)), 1e-12)
        self.count[number] += 1

    def whole(self) -> Features:
        """The mean of all of each person's features: (P, F)."""
        means: Features = np.stack(self._sums).sum(1) / np.array(self.count, np.float32)[:, None]
        return means

    def halves(self) -> tuple[Features, Features]:
        """The means of every other feature of those people who have two or more: two (Q, F)."""
        several = np.flatnonzero(np.array(self.count) > 1)
        sums, count = np.stack(self._sums)[several], np.array(self.count)[several][:, None]
        return sums[:, 0] / np.float32((count + 1) // 2), sums[:, 1] / np.float32(count // 2)


@dataclass(frozen=True)
class Threshold:
    """From which cosine on two people are suspected to be one, and what that means in these two sets.

    Attributes:
        value: the cosine.
        share: of pairs of different people that reach it.
        found: share of people whose own two halves reach it: an estimate of how many of the same people are found.
        different: pairs of different people that `share` rests on.
        same: people whom `found` rests on; it is nan where there are none.
    """

    value: float
    share: float
    found: float
    different: int
    same: int


def choose_threshold(train: Means, test: Means, false_alarms: float) -> Threshold:
    """The cosine that so few pairs of different people reach that `false_alarms` are expected for a person of the test.

    Different people are those of one set (at most 3,000 of each are looked at): a set holds each person once, apart
    from faults of its labels, which make the threshold higher. The expectation is over all people of `train`; where
    that asks for a smaller share than five of the pairs that were seen, it is the share of five.

    Args:
        train: people of the training set.
        test: people of the test set.
        false_alarms: expected number of people of `train` who are wrongly suspected to be one of the test.
    """
    centre = _centre(train, test)
    rng = np.random.default_rng(0)
    cosines = []
    for means in (train, test):
        rows = rng.permutation(len(means))[:_SAMPLE]
        units = _units(means.whole()[np.sort(rows)], centre)
        cosines.append((units @ units.T)[np.triu_indices(len(units), 1)])
    different = np.concatenate(cosines)
    wanted = max(round(min(false_alarms / len(train), 1) * len(different)), _LEAST)
    few = len(different) <= _LEAST  # too few people to learn from
    value = 1.0 if few else float(np.partition(different, -wanted)[-wanted])
    halves = [means.halves() for means in (train, test)]
    left, right = (_units(np.concatenate([half[side] for half in halves]), centre) for side in range(2))
    same = np.einsum("nf,nf->n", left, right)
    found = float((same >= value).mean()) if len(same) else float("nan")
    return Threshold(
        value, float((different >= value).mean()) if len(different) else 0.0, found, len(different), len(same)
    )


def match_features(train: Means, test: Means, threshold: float) -> list[tuple[int, int, float]]:
    """The pairs (of `train`, of `test`) whose cosine reaches the threshold, and it, largest first.

    The mean of both sets' people is subtracted before. People of `train` are taken in blocks, so that memory does not
    grow with the product of the two numbers.
    """
    centre = _centre(train, test)
    left, right = _units(train.whole(), centre), _units(test.whole(), centre)
    step = max(1, _BLOCK // len(right))
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(left), step):
        cosines = left[start : start + step] @ right.T
        rows, columns = np.nonzero(cosines >= threshold)
        pairs += zip((rows + start).tolist(), columns.tolist(), cosines[rows, columns].tolist(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[2])


def _centre(train: Means, test: Means) -> Features:
    """The mean over people, each set counting the same: features of small networks have much in common."""
    centre: Features = (train.whole().mean(0) + test.whole().mean(0)) / 2
    return centre


def _units(means: Features, centre: Features) -> Features:
    moved = means - centre
    units: Features = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return units
