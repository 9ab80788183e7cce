"""The numbers of a report, against plain counting and statsmodels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import FOLD, SAME, features, pairs, result

from sfplus.datasets.pairs import Pairs
from sfplus.reports import metrics as facts
from sfplus.reports.html import Report, render
from sfplus.reports.metrics import by_protocol, comparisons, hardest_people, intervals
from sfplus.verification.protocols import PROTOCOLS
from sfplus.verification.significance import compare


def test_hardest_people_are_those_in_most_wrong_pairs() -> None:
    found, known = result(0, noise=2), pairs()
    wrong: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    every: Counter[str] = Counter()
    for left, right, same, correct in zip(known.left, known.right, known.same, found.correct, strict=True):
        for person in {left.split("/")[0], right.split("/")[0]}:
            every[person] += 1
            wrong[bool(same)][person] += not correct
    rows = hardest_people(found, known)
    assert len(rows) == 12
    for row in rows:
        counts = (every[row["person"]], wrong[False][row["person"]], wrong[True][row["person"]])
        assert (row["pairs"], row["false_accepts"], row["false_rejects"]) == counts
    errors = [row["false_accepts"] + row["false_rejects"] for row in rows]
    assert errors == sorted((wrong[False] + wrong[True]).values(), reverse=True)[:12]


def test_nobody_is_hard_where_nothing_is_wrong() -> None:
    found = replace(result(0), scores=np.where(SAME, 1.0, -1.0), threshold=np.zeros(10))
    assert hardest_people(found, pairs()) == []


def test_p_values_are_adjusted_as_by_holm() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    results = {str(noise): result(seed, noise) for seed, noise in enumerate((0.5, 1.0, 1.2, 2.0))}
    found = comparisons(results, dict.fromkeys(results, pairs()))
    raw = [compare(results[row.first], results[row.second], pairs()).p for row in found]
    assert len(raw) == 6 and len(set(raw)) > 3
    np.testing.assert_allclose([row.p for row in found], multitest.multipletests(raw, method="holm")[1])
    assert all(row.real == (row.p < 0.05 and not row.low <= 0 <= row.high) for row in found)


def test_only_results_of_the_same_pairs_and_protocol_are_compared() -> None:
    known = pairs()
    turned = Pairs(known.right, known.left, known.same, known.fold)
    exact = PROTOCOLS["exact"](*features(0), SAME, FOLD)
    results = {"a": result(0), "b": result(1), "turned": result(1), "exact": exact, "unknown": result(1)}
    lists = {"a": known, "b": known, "turned": turned, "exact": known}
    assert [(row.first, row.second) for row in comparisons(results, lists)] == [("a", "b")]


def test_two_people_are_too_few_for_an_interval(tmp_path: Path) -> None:
    left, right = (["ab"[i % 2] for i in range(200)], ["ab"[(i + (not same)) % 2] for i, same in enumerate(SAME)])
    names = [tuple(f"{k}/{side}{i}" for i, k in enumerate(people)) for side, people in (("x", left), ("y", right))]
    few = Pairs(*names, SAME, FOLD.astype(np.int64))
    assert len(few.people.names) == 2 and intervals(result(0), few) == {}
    assert comparisons({"a": result(0), "b": result(1)}, {"a": few, "b": few}) == []
    render(Report(title="", results={"a": result(0)}, pairs={"a": few}), tmp_path)
    assert "too few people for an interval" in (tmp_path / "report.html").read_text("utf-8")


def test_protocols_that_do_not_fit_are_left_out() -> None:
    left, right = (side[:, :7] for side in features(0))
    assert list(by_protocol(left, right, SAME, FOLD, True)) == ["sphereface"]
    assert list(by_protocol(left, right, SAME, FOLD, False)) == list(PROTOCOLS)
    found = by_protocol(*features(0), SAME, FOLD, True)
    assert found["sphereface"]["mean"] == result(0).mean and "scores" not in found["exact"]
    assert list(facts.descriptions({"a": found})) == list(PROTOCOLS)
    assert all(text and "`" not in text for text in facts.descriptions({"a": found}).values())
