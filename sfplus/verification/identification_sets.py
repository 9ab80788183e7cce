"""Identification of photos among those of other sets: what the command and the stage `identify` measure."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfplus.datasets.records import PeopleRule, person_from_path
from sfplus.errors import DatasetError
from sfplus.io.console import quantity
from sfplus.io.loggers import get_logger
from sfplus.verification.features import Features, feature_digests
from sfplus.verification.identification_rates import RANKS, IdentificationRates, measure_identification

_log = get_logger(__name__)

PROBES_CSV = "probes.csv"


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of a set of photos.

    Attributes:
        path: where the photos or features are, for messages.
        names: the photo of each feature.
        features: (N, d).
        left_out: the number of photos that could not be used.
    """

    path: Path
    names: Sequence[str]
    features: Features
    left_out: int = 0


def identify_sets(
    photos: FeatureSet,
    distractors: Sequence[FeatureSet] = (),
    people: PeopleRule = "path",
    enrolled: int = 1,
    ranks: Sequence[int] = RANKS,
) -> tuple[IdentificationRates, str]:
    """Measure how often the person of a photo is found in a gallery of people and distractors.

    Distractors with the features of a photo of an earlier set are left out: they would be people of the gallery.

    Args:
        photos: the photos of known people.
        distractors: the photos of other people.
        people: which of nested folders is the person.
        enrolled: the number of photos of a person in the gallery.
        ranks: each k of the rank-k rates.

    Returns:
        The rates, and a CSV table with a line for each photo that was searched.

    Raises:
        DatasetError: If the features of two sets differ in length, all distractors are photos of an earlier set, a
            photo is not in a person's folder, or no person has enough photos.
    """
    names = [person_from_path(name, DatasetError, people) for name in photos.names]
    if max(Counter(names).values(), default=0) <= enrolled:
        used = f" with a usable face ({photos.left_out:,} left out)" if photos.left_out else ""
        reason = f"no person has more than {quantity(enrolled, 'photo')}{used}"
        raise DatasetError(reason, where=photos.path, remedy="give folders of people with several photos each")
    width = photos.features.shape[1]
    for crowd in distractors:
        if crowd.features.shape[1] != width:
            reason = f"its features have {crowd.features.shape[1]} numbers, those of {photos.path} {width}"
            raise DatasetError(reason, where=crowd.path, remedy="make both with the same model: sfplus embed")
    new_features = _leave_out_known(photos, distractors)
    crowd_features = np.concatenate(new_features) if new_features else None
    rates = measure_identification(photos.features, names, crowd_features, enrolled, ranks=ranks)
    rates = replace(rates, left_out=sum(part.left_out for part in (photos, *distractors)))
    return rates, _list_probes(rates, photos.names, names)


def _leave_out_known(photos: FeatureSet, distractors: Sequence[FeatureSet]) -> list[Features]:
    """Return the features of each crowd without those of an earlier set.

    Raises:
        DatasetError: If none remain.
    """
    known_digests, kept = set(feature_digests(photos.features)), []
    for crowd in distractors:
        digests = feature_digests(crowd.features)
        is_new = np.array([digest not in known_digests for digest in digests])
        known_digests.update(digests)
        equal = quantity(int((~is_new).sum()), "distractor")
        if not is_new.any():
            reason = f"holds no photo that is not in {photos.path} or in earlier distractors ({equal})"
            raise DatasetError(reason, where=crowd.path, remedy="give photos of other people")
        if not is_new.all():
            text = "%s: %s left out, with the features of photos in %s or in earlier distractors"
            _log.warning(text, crowd.path, equal, photos.path)
        kept.append(crowd.features[is_new])
    return kept


def _list_probes(rates: IdentificationRates, photos: Sequence[str], people: Sequence[str]) -> str:
    """Return a line for each photo that was searched: its rank, the score of its person, the best other score."""
    text, search = io.StringIO(newline=""), rates.search
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["photo", "person", "rank", "mate_score", "best_other_score"])
    for row, rank, mate, best in zip(rates.photos, search.rank, search.mate_score, search.nonmate_score, strict=True):
        has_mate = rank > 0
        writer.writerow(
            [photos[row], people[row], rank if has_mate else "", f"{mate:.5f}" if has_mate else "", f"{best:.5f}"]
        )
    return text.getvalue()
