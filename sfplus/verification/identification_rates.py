"""Identification rates of a set of photos of known people, for growing numbers of distractors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from sfplus.errors import PairsError
from sfplus.io.console import quantity
from sfplus.verification.bootstrap import Interval
from sfplus.verification.features import Features
from sfplus.verification.identification import Identification, identify, megaface

RANKS = (1, 5, 10)
FPIRS = (0.01, 0.1)
_BLOCK = 100_000  # distractors in one block of the search
_REPLICATES = 1000

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, lt=10**15)]


class _RowData(TypedDict):
    distractors: _Count
    rank: dict[str, _Share]
    rank_1_interval: Interval | None
    tpir_at_fpir: dict[str, _Share | None]
    megaface: _Share | None


class IdentificationData(TypedDict):
    """A summary of identification rates as JSON."""

    people: _Count
    probes: _Count
    strangers: _Count
    enrolled: _Count
    left_out: _Count
    rows: Annotated[list[_RowData], Field(min_length=1)]


@dataclass(frozen=True)
class IdentificationRow:
    """The rates with one number of distractors; those that cannot be measured are None.

    Attributes:
        distractors: photos of unknown people in the gallery, beside its people.
        rank: the rank-k identification rates of the probes with a mate, in the order of the ranks of the summary.
        interval: of the rank-1 rate, over people; None for fewer than ten people.
        tpir: the open-set identification rates at each rate of `FPIRS`.
        megaface: MegaFace's rank-1 rate, without the other people in the gallery; None without distractors.
    """

    distractors: int
    rank: tuple[float, ...]
    interval: Interval | None
    tpir: tuple[float | None, ...]
    megaface: float | None


@dataclass(frozen=True, eq=False)
class IdentificationSummary:
    """The rates of identifying the photos of a set.

    Attributes:
        people: people in the gallery.
        probes: photos whose person is in the gallery.
        strangers: photos of people who are not in the gallery, for the open set.
        enrolled: photos of each person in the gallery; their features are averaged.
        ranks: each k of the rank-k rates; the first one is 1.
        rows: the rates, by increasing number of distractors.
        left_out: photos of the set and of distractors that could not be used, most of them without a face.
    """

    people: int
    probes: int
    strangers: int
    enrolled: int
    ranks: tuple[int, ...]
    rows: Sequence[IdentificationRow]
    left_out: int = field(default=0, kw_only=True)

    @classmethod
    def from_json(cls, data: IdentificationData) -> IdentificationSummary:
        """Restore the rates from their JSON, whose types have been checked.

        Raises:
            ValueError: If rows differ in their ranks, or the first rank is not 1.
        """
        rows, ranks = data["rows"], tuple(map(int, data["rows"][0]["rank"]))
        keys = [(list(row["rank"]), list(row["tpir_at_fpir"])) for row in rows]
        if keys != [([str(rank) for rank in ranks], [str(fpir) for fpir in FPIRS])] * len(rows) or ranks[:1] != (1,):
            raise ValueError("rows with other ranks or rates")
        restored = [
            IdentificationRow(
                row["distractors"],
                tuple(row["rank"].values()),
                row["rank_1_interval"],
                tuple(row["tpir_at_fpir"].values()),
                row["megaface"],
            )
            for row in rows
        ]
        people, probes, strangers, enrolled = (data[name] for name in ("people", "probes", "strangers", "enrolled"))
        return cls(people, probes, strangers, enrolled, ranks, restored, left_out=data["left_out"])

    def to_json(self) -> dict[str, Any]:
        """Return the rates as values for JSON, without the photos."""
        rows = [
            {
                "distractors": row.distractors,
                "rank": dict(zip(map(str, self.ranks), row.rank, strict=True)),
                "rank_1_interval": row.interval and row.interval._asdict(),
                "tpir_at_fpir": dict(zip(map(str, FPIRS), row.tpir, strict=True)),
                "megaface": row.megaface,
            }
            for row in self.rows
        ]
        counts = ("people", "probes", "strangers", "enrolled", "left_out")
        return {name: getattr(self, name) for name in counts} | {"rows": rows}

    def figures(self) -> dict[str, float]:
        """Return the rates among all distractors by name, such as `rank_1` and `tpir_at_fpir_0.01`."""
        last = self.rows[-1]
        ranks = {f"rank_{k}": rate for k, rate in zip(self.ranks, last.rank, strict=True)}
        tpir = {f"tpir_at_fpir_{fpir:g}": rate for fpir, rate in zip(FPIRS, last.tpir, strict=True)}
        return ranks | {name: rate for name, rate in tpir.items() if rate is not None}


@dataclass(frozen=True, eq=False)
class IdentificationRates(IdentificationSummary):
    """The result of identifying the photos of a set.

    Attributes:
        photos: the row of the set of each probe and stranger.
        search: the result of the last row for these photos, in the same order.
    """

    photos: NDArray[np.int64] = field(repr=False)
    search: Identification = field(repr=False)


def measure_identification(
    features: Features,
    people: Sequence[str],
    distractors: Features | None = None,
    enrolled: int = 1,
    seed: int = 0,
    ranks: Sequence[int] = RANKS,
) -> IdentificationRates:
    """Measure how often the person of a photo is found in a gallery of people and distractors.

    The first `enrolled` photos of each person with more photos than these form the gallery, one mean feature per
    person. The other photos of these people are the probes. The photos of all other people have no mate, and measure
    how often a stranger is taken for somebody in the gallery. The distractors are added 10, 100, 1,000 ... at a time in
    a random order that does not depend on the model.

    Args:
        features: (N, d) features of photos of known people.
        people: the person of each, N names.
        distractors: (M, d) features of photos of other people.
        enrolled: photos of a person in the gallery.
        seed: of the order of the distractors.
        ranks: each k of the rank-k rates; 1 is always among them.

    Raises:
        PairsError: If no person has enough photos, shapes do not fit, or a feature is not finite or zero.
    """
    names, owner = np.unique(np.asarray(people), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(names)))])
    number = np.empty(len(owner), np.int64)  # of a photo among those of its person
    number[order] = np.arange(len(owner)) - starts[owner[order]]
    searched = np.bincount(owner, minlength=len(names)) > enrolled
    if not searched.any():
        reason = f"no person has more than {quantity(enrolled, 'photo')}"
        raise PairsError(reason, remedy="give folders of people with several photos each")
    in_gallery = searched[owner] & (number < enrolled)
    photos = np.flatnonzero(~in_gallery)
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    gallery = np.zeros((len(names), features.shape[1]), np.float32)
    np.add.at(gallery, owner[in_gallery], directions[in_gallery].astype(np.float32))
    crowd = np.empty((0, features.shape[1]), np.float32) if distractors is None else distractors
    sizes = [0, *(10**k for k in range(1, 10) if 10**k < len(crowd)), *[len(crowd)] * (len(crowd) > 0)]
    mixed = np.random.default_rng(seed).permutation(len(crowd))
    alone = (
        megaface(features[searched[owner]], owner[searched[owner]], _blocks(crowd, mixed), sizes[1:])
        if len(crowd)
        else {}
    )
    rows, ranks = [], sorted({1, *ranks})
    for size in sizes:
        search = identify(
            features[photos], owner[photos], gallery[searched], np.flatnonzero(searched), _blocks(crowd, mixed[:size])
        )
        rates = tuple(search.rate(rank) for rank in ranks)
        tpir = tuple(search.tpir_at_fpir(fpir) if not search.mated.all() else None for fpir in FPIRS)
        rows.append(IdentificationRow(size, rates, _interval(search, owner[photos]), tpir, alone.get(size)))
    mated = int(search.mated.sum())
    strangers = len(photos) - mated
    return IdentificationRates(
        int(searched.sum()), mated, strangers, enrolled, tuple(ranks), rows, photos=photos, search=search
    )


def _blocks(features: Features, rows: NDArray[np.int64]) -> Iterator[Features]:
    for start in range(0, len(rows), _BLOCK):
        yield features[rows[start : start + _BLOCK]]


def _interval(search: Identification, owner: NDArray[np.int64]) -> Interval | None:
    """Return the interval of the rank-1 rate over people: all probes of a person are drawn together."""
    mated = search.mated
    probes = np.bincount(owner[mated])
    hits = np.bincount(owner[mated], search.rank[mated] == 1, minlength=len(probes))[probes > 0]
    probes = probes[probes > 0]
    if len(probes) < 10:
        return None
    from scipy.stats import bootstrap  # start-up time: every command reads this module

    result = bootstrap(
        (hits, probes),
        lambda right, count, axis: right.sum(axis) / count.sum(axis),
        paired=True, vectorized=True, n_resamples=_REPLICATES, method="percentile",
        batch=max(1, 10_000_000 // len(probes)), rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return None if math.isnan(result.low) else Interval(float(result.low), float(result.high))
