"""The numbers of a report, against plain counting and statsmodels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import FOLD, SAME, features, pairs, result
from slow_cases import slow

from sfplus.artifacts.model_facts import ModelFacts
from sfplus.datasets.pairs import Pairs
from sfplus.reports.html import Report, render
from sfplus.reports.metrics import (
    compare_models,
    confidence_intervals,
    effect_of,
    hardest_people,
    protocol_descriptions,
    verdicts,
)
from sfplus.verification.protocols import PROTOCOLS, protocol_summaries
from sfplus.verification.significance import compare


def test_hardest_people_are_in_the_most_wrong_pairs() -> None:
    noisy, listed = result(0, noise=2), pairs()
    wrong: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    total: Counter[str] = Counter()
    for left, right, same, correct in zip(listed.left, listed.right, listed.same, noisy.correct, strict=True):
        for person in {left.split("/")[0], right.split("/")[0]}:
            total[person] += 1
            wrong[bool(same)][person] += not correct
    rows = hardest_people(noisy, listed)
    assert len(rows) == 12
    for row in rows:
        counts = (total[row["person"]], wrong[False][row["person"]], wrong[True][row["person"]])
        assert (row["pairs"], row["false_accepts"], row["false_rejects"]) == counts
    errors = [row["false_accepts"] + row["false_rejects"] for row in rows]
    assert errors == sorted((wrong[False] + wrong[True]).values(), reverse=True)[:12]


def test_no_person_is_hard_without_wrong_pairs() -> None:
    perfect = replace(result(0), scores=np.where(SAME, 1.0, -1.0), threshold=np.zeros(10))
    assert hardest_people(perfect, pairs()) == []


def test_p_values_are_adjusted_by_the_method_of_holm() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    results = {str(noise): result(seed, noise) for seed, noise in enumerate((0.5, 1.0, 1.2, 2.0))}
    rows = compare_models(results, dict.fromkeys(results, pairs()))
    raw = [compare(results[row.first], results[row.second], pairs()).p for row in rows]
    assert len(raw) == 6 and len(set(raw)) > 3
    np.testing.assert_allclose([row.p for row in rows], multitest.multipletests(raw, method="holm")[1])
    assert all(row.significant == (row.p < 0.05 and not row.low <= 0 <= row.high) for row in rows)


def test_only_results_of_the_same_pairs_and_protocol_are_compared() -> None:
    listed = pairs()
    turned = Pairs(listed.right, listed.left, listed.same, listed.fold)
    exact = PROTOCOLS["exact"](*features(0), SAME, FOLD)
    results = {"a": result(0), "b": result(1), "turned": result(1), "exact": exact, "unknown": result(1)}
    lists = {"a": listed, "b": listed, "turned": turned, "exact": listed}
    assert [(row.first, row.second) for row in compare_models(results, lists)] == [("a", "b")]


def test_two_people_are_too_few_for_an_interval(tmp_path: Path) -> None:
    left, right = (["ab"[i % 2] for i in range(200)], ["ab"[(i + (not same)) % 2] for i, same in enumerate(SAME)])
    names = [tuple(f"{k}/{side}{i}" for i, k in enumerate(people)) for side, people in (("x", left), ("y", right))]
    few = Pairs(*names, SAME, FOLD.astype(np.int64))
    assert len(few.people.names) == 2 and confidence_intervals(result(0), few) == {}
    assert compare_models({"a": result(0), "b": result(1)}, {"a": few, "b": few}) == []
    render(Report(title="", results={"a": result(0)}, pairs={"a": few}), tmp_path)
    assert "too few people for an interval" in (tmp_path / "report.html").read_text("utf-8")


def test_protocols_that_do_not_fit_are_left_out() -> None:
    left, right = (side[:, :7] for side in features(0))
    assert list(protocol_summaries(left, right, SAME, FOLD, mirrored=True)) == ["sphereface"]
    assert list(protocol_summaries(left, right, SAME, FOLD, mirrored=False)) == list(PROTOCOLS)
    summaries = protocol_summaries(*features(0), SAME, FOLD, mirrored=True)
    assert summaries["sphereface"]["mean"] == result(0).mean and "scores" not in summaries["exact"]
    assert list(protocol_descriptions({"a": summaries})) == list(PROTOCOLS)
    assert all(text and "`" not in text for text in protocol_descriptions({"a": summaries}).values())


@pytest.mark.parametrize(("mode", "name"), [slow("paper", "MHE"), ("my:Spread", "my:Spread")])
def test_effects_name_the_regulariser(mode: str, name: str, tmp_path: Path) -> None:
    energy, control = {"mode": mode, "weight": 1.0}, {"mode": mode, "weight": 0.0}
    models = {
        "start": ModelFacts(content="s"),
        "control": ModelFacts(start="s", content="c", training="t", finetuned=True, config={"energy": control}),
        "tuned": ModelFacts(start="s", content="t", training="t", finetuned=True, energy=energy),
    }
    results = {label: result(seed) for seed, label in enumerate(models)}
    rows = compare_models(results, dict.fromkeys(results, pairs()), models)
    assert {(row.first, row.second): effect_of(row, models) for row in rows} == {
        ("control", "tuned"): name,
        ("start", "control"): f"fine-tuning without {name}",
        ("start", "tuned"): f"fine-tuning and {name} together",
    }
    assert (rows[0].first, rows[0].second) == ("control", "tuned")
    assert verdicts(rows, models, "tuned")[0].startswith(f"Effect of {name}: ")
    render(Report(title="", models=models, results=results, pairs=dict.fromkeys(results, pairs())), tmp_path)
    for file in ("report.html", "report.md"):
        text = (tmp_path / file).read_text("utf-8")
        assert name in text and ("MHE" in text) == (name == "MHE")
    del models["control"]
    lines = verdicts([row for row in rows if "control" not in (row.first, row.second)], models, "tuned")
    assert lines[-1].startswith(f"No control of tuned was verified, so the effect of {name} is not known")
