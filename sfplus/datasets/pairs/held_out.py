"""People of a folder of photos that are held out of training, and pairs of them."""

from __future__ import annotations

import random
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from sfplus.datasets.pairs.draw import draw_pairs
from sfplus.datasets.pairs.plain import can_write, without_suffix
from sfplus.datasets.pairs.table import Pairs
from sfplus.datasets.records import PeopleRule, person_from_path
from sfplus.errors import DatasetError, UsageError
from sfplus.io.console import quantity

LEAST_HELD_OUT, LEAST_TRAINED = 4, 2
"""The people that two folds of pairs need, two for each fold, and those that training needs."""

_AS_MANY = (300, 200, 100, 50, 30, 20, 10, 5, 3, 2, 1)  # LFW has 300 pairs of each kind in a fold
_SHARE, _MOST, _FOLDS = 5, 500, 10


def photos_by_person(photos: Sequence[str], rule: PeopleRule = "path") -> dict[str, list[str]]:
    """Return the photos of each person.

    Raises:
        DatasetError: If a photo is in no person's folder.
    """
    by_person: dict[str, list[str]] = {}
    for photo in photos:
        by_person.setdefault(person_from_path(photo, DatasetError, rule), []).append(photo)
    return by_person


def listable_photos(photos: Iterable[str]) -> dict[str, str]:
    """Return the photos that a plain list of pairs can name, each with its name there.

    A name has no extension, unless two photos differ only in theirs: the first of them is returned, with its extension.
    Photos are left out whose paths are the same in Unicode's composed form.
    """
    names: dict[str, str] = {}
    groups = defaultdict(list)
    for photo in sorted(photos):
        groups[unicodedata.normalize("NFC", without_suffix(photo))].append(photo)
    for first, *duplicates in groups.values():
        stem = without_suffix(first)
        if can_write(stem) and all(without_suffix(photo) == stem for photo in duplicates):
            names[first] = first if duplicates else stem
    return names


def choose_people(by_person: Mapping[str, Sequence[str]], count: int, seed: int, where: Path) -> list[str]:
    """Return people chosen at random among those with two photos or more, sorted.

    Raises:
        UsageError: If there are too few.
    """
    candidates = sorted(person for person, names in by_person.items() if len(names) > 1)
    if count > len(candidates):
        several = f"has {quantity(len(candidates), 'person', 'people')} with two photos or more, not {count}"
        raise UsageError(several, where=where, remedy="give a smaller --people")
    return sorted(random.Random(seed).sample(candidates, count))


def hold_out_people(
    by_person: Mapping[str, Sequence[str]], seed: int, where: Path, ineligible: Mapping[str, Collection[str]]
) -> list[str]:
    """Return a fifth of the people with two photos or more, at least 4 and at most 500, chosen at random.

    Args:
        by_person: the photos of each person to train on.
        seed: seed of the choice.
        where: the folder, for messages.
        ineligible: people that cannot be held out, by the reason, such as "in people.txt of MODEL".

    Raises:
        UsageError: If there are too few people to hold any out and train on the others.
    """
    several = sum(len(names) > 1 for names in by_person.values())
    barred = {person for people in ineligible.values() for person in people}
    eligible = {person: names for person, names in by_person.items() if person not in barred and len(names) > 1}
    count = min(max(LEAST_HELD_OUT, round(several / _SHARE)), _MOST)
    if several < LEAST_HELD_OUT or len(by_person) - count < LEAST_TRAINED:
        reason = f"has {quantity(len(by_person), 'person', 'people')}, {several} of them with two photos or more"
        needs = f"a verdict on held-out people needs {LEAST_HELD_OUT} such people, and {LEAST_TRAINED} to train on"
        remedy = "add people, give verify.photos and verify.pairs, or leave the verdict out: verify=null"
        raise UsageError(f"{reason}: {needs}", where=where, remedy=remedy)
    if len(eligible) < LEAST_HELD_OUT:
        reason = f"has {several} people with two photos or more, of whom {len(eligible)} can be held out for a verdict"
        remedy = "give verify.photos and verify.pairs, or leave the verdict out: verify=null"
        needs = f"it needs {LEAST_HELD_OUT}; {describe_ineligible(ineligible)}"
        raise UsageError(f"{reason}, and {needs}", where=where, remedy=remedy)
    return choose_people(eligible, min(count, len(eligible)), seed, where)


def describe_ineligible(ineligible: Mapping[str, Collection[str]]) -> str:
    """Return how many people cannot be held out, and why; empty if there are none."""
    counts = {reason: quantity(len(people), "person", "people") for reason, people in ineligible.items() if people}
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def count_folds(people: int) -> int:
    """Return the number of folds for so many people: ten, or fewer, so that each has two people."""
    return min(_FOLDS, people // 2)


def draw_as_many(
    photos: Sequence[str], folds: int, per_fold: int, seed: int, where: Path, rule: PeopleRule = "path"
) -> Pairs:
    """Draw pairs; without a number per fold, as many as the photos allow, at most 300 of each kind.

    Raises:
        UsageError: If there are too few photos.
    """
    for size in (per_fold,) if per_fold else _AS_MANY:
        try:
            return draw_pairs(photos, folds, size, seed, rule)
        except DatasetError as error:
            failure = error
    raise UsageError(failure.reason, where=where / failure.where, remedy=failure.remedy)
