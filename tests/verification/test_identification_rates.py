"""Identification rates of a set against closed forms and a count by loops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sfplus.errors import PairsError
from sfplus.reports.metrics import to_json_value
from sfplus.verification.identification_rates import FPIRS, RANKS, IdentificationSummary, measure_identification


def circle(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_rates_of_people_on_a_circle_are_known() -> None:
    """Gallery at 0, 90 and 180 degrees; the photo of c lies nearer to a's and b's."""
    people = ["a", "b", "c", "a", "b", "c", "stranger", "passer-by"]
    features = circle([0, 90, 180, 10, 80, 40, 350, 260])
    rates = measure_identification(features, people)
    assert (rates.people, rates.probes, rates.strangers, rates.enrolled) == (3, 3, 2, 1)
    (row,) = rates.rows
    assert row.distractors == 0 and row.rank == pytest.approx((2 / 3, 1, 1)) and row.megaface is None
    assert row.tpir == (None, None) and row.interval is None  # two strangers measure no rate below 1 in 2
    assert rates.search.rank.tolist() == [1, 1, 3, 0, 0] and rates.photos.tolist() == [3, 4, 5, 6, 7]


def test_distractors_at_known_places_push_the_mate_down() -> None:
    features = circle([0, 90, 20, 95])
    people = ["a", "b", "a", "b"]
    rates = measure_identification(features, people, circle([15, 25, 200]))
    assert [row.distractors for row in rates.rows] == [0, 3]
    assert rates.rows[0].rank[0] == 1 and rates.rows[1].rank[0] == 0.5  # a's photo is nearer to two distractors
    assert rates.search.rank.tolist() == [3, 1]
    # MegaFace: every photo is a probe of every other one of its person: both pairs of a lose, both of b win
    assert rates.rows[1].megaface == 0.5


def test_several_enrolled_photos_are_averaged() -> None:
    people = ["a", "a", "a", "b", "b", "b"]
    features = circle([0, 60, 31, 90, 150, 121])  # the means are at 30 and 120 degrees
    rates = measure_identification(features, people, circle([33.5, 300]), enrolled=2)
    assert rates.search.mate_score == pytest.approx(np.cos(np.radians([1, 1])), abs=1e-6)
    assert rates.rows[-1].rank[0] == 1
    assert measure_identification(features, people, circle([33.5, 300])).rows[-1].rank[0] < 1


def test_rates_equal_a_count_by_loops_for_random_features() -> None:
    rng = np.random.default_rng(0)
    owner = np.concatenate([np.repeat(np.arange(40), 3), np.arange(40, 240)])
    features = (rng.normal(size=(240, 16))[owner] + 1.3 * rng.normal(size=(len(owner), 16))).astype(np.float32)
    crowd = rng.normal(size=(1500, 16)).astype(np.float32)
    order = rng.permutation(len(owner))
    owner, features = owner[order], features[order]
    rates = measure_identification(features, [f"p{i}" for i in owner], crowd)
    assert [row.distractors for row in rates.rows] == [0, 10, 100, 1000, 1500]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    others = crowd / np.linalg.norm(crowd, axis=1, keepdims=True)
    first = {who: next(i for i in range(len(owner)) if owner[i] == who) for who in range(40)}
    ranks, strangers, mates = [], [], []
    for i, who in enumerate(owner):
        rivals = [unit[i] @ unit[row] for other, row in first.items() if other != who] + list(others @ unit[i])
        if who >= 40:
            strangers.append(max(rivals))
        elif i != first[who]:
            mate = unit[i] @ unit[first[who]]
            ranks.append(1 + sum(rival >= mate for rival in rivals))
            mates.append(mate)
    ranks, mates = np.array(ranks), np.array(mates)
    last = rates.rows[-1]
    assert (rates.people, rates.probes, rates.strangers) == (40, 80, 200)
    assert last.rank == pytest.approx([(ranks <= k).mean() for k in RANKS])
    for fpir, tpir in zip(FPIRS, last.tpir, strict=True):
        limit = np.sort(strangers)[::-1][round(fpir * 200)]
        assert tpir == pytest.approx(((ranks == 1) & (mates > limit)).mean())
    assert last.interval is not None and last.interval.low < last.rank[0] < last.interval.high
    assert all(a.rank[0] >= b.rank[0] for a, b in zip(rates.rows, rates.rows[1:], strict=False))


def test_the_interval_covers_people_not_photos() -> None:
    """A hundred photos of each person that all agree are worth no more than one."""
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 360, 20)
    widths = []
    for count in (1, 100):
        people = [f"p{i}" for i in range(20) for _ in range(count + 1)]
        probes = [a if n == 0 else a + 8 for a in angle for n in range(count + 1)]
        interval = measure_identification(circle(probes), people).rows[0].interval
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[0] == pytest.approx(widths[1], abs=0.01) and widths[0] > 0.1


def test_rates_become_json() -> None:
    rates = measure_identification(circle([0, 90, 180, 10, 80, 170]), list("abcabc"), circle([45, 300]))
    data = json.loads(json.dumps(to_json_value(rates.to_json()), allow_nan=False))
    assert data["people"] == 3 and data["probes"] == 3 and data["strangers"] == 0
    assert data["rows"][0] == {
        "distractors": 0, "rank": {"1": 1.0, "5": 1.0, "10": 1.0}, "rank_1_interval": None,
        "tpir_at_fpir": {"0.01": None, "0.1": None}, "megaface": None,
    }  # fmt: skip


def test_other_ranks_can_be_measured_and_1_is_always_among_them() -> None:
    features = circle([0, 90, 180, 10, 80, 40])
    rates = measure_identification(features, list("abcabc"), ranks=[3, 2])
    assert rates.ranks == (1, 2, 3) and rates.rows[0].rank == pytest.approx((2 / 3, 2 / 3, 1))
    assert rates.figures() == {f"rank_{k}": rate for k, rate in enumerate(rates.rows[0].rank, 1)}


@pytest.mark.parametrize("ranks", [{"5": 1.0}, {"1": 1.0, "05": 1.0}, {"one": 1.0}, {}])
def test_json_with_other_ranks_is_refused(ranks: dict[str, float]) -> None:
    data = measure_identification(circle([0, 90, 10, 80]), list("abab")).to_json()
    data["rows"][0]["rank"] = ranks
    with pytest.raises(ValueError):
        IdentificationSummary.from_json(data)


@pytest.mark.parametrize(("enrolled", "reason"), [(1, "more than 1 photo$"), (2, "more than 2 photos$")])
def test_a_set_without_probes_is_refused(enrolled: int, reason: str) -> None:
    people = ["a", "b"] if enrolled == 1 else ["a", "a"]
    with pytest.raises(PairsError) as error:
        measure_identification(circle([0, 90]), people, enrolled=enrolled)
    assert error.value.reason == f"no person has {reason.rstrip('$')}"
