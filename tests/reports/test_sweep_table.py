"""The tables of a sweep."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from scipy.stats import ttest_rel

from sfplus.reports.sweep_table import (
    ControlDifference,
    SweepRow,
    SweepTable,
    standard_deviation,
    to_html,
    to_json,
    to_markdown,
    to_text,
)
from sfplus.verification.bootstrap import Interval


def row(label: str, accuracy: list[float], **more: object) -> SweepRow:
    history = [{"step": step, "loss": 1 / step, "accuracy": 0.5} for step in (1, 2, 3)]
    seeds = list(range(len(accuracy)))
    return SweepRow(label, {}, seeds, {"accuracy": accuracy}, histories=[history] * len(seeds), **more)  # type: ignore[arg-type]


def test_the_difference_is_tested_over_seeds() -> None:
    values, control = np.array([0.91, 0.93, 0.92, 0.95]), np.array([0.90, 0.91, 0.92, 0.91])
    difference = ControlDifference("c", (values - control).tolist())
    assert difference.p_seeds == pytest.approx(ttest_rel(values, control).pvalue)
    assert difference.mean == pytest.approx(0.0175) and difference.standard_error == pytest.approx(
        0.0170783 / 2, rel=1e-4
    )
    assert standard_deviation([1.0, 2.0, 3.0]) == 1.0 and math.isnan(standard_deviation([1.0]))


@pytest.mark.parametrize(
    ("values", "interval", "verdict"),
    [
        ([0.1], None, "one seed is not conclusive"),
        ([0.1], Interval(0.05, 0.15), "significant on these pairs, but only one seed"),
        ([0.0, 0.0], None, "not significant"),
        ([0.1, 0.1], None, "not significant"),
        ([0.1, 0.1, 0.1], None, "higher"),
        ([-0.1, -0.1, -0.11], None, "lower"),
        ([0.1, 0.1, 0.11], Interval(-0.01, 0.2), "not significant"),
        ([0.1, 0.1, 0.11], Interval(0.01, 0.2), "higher"),
        ([0.1, -0.1, 0.11], Interval(0.01, 0.2), "not significant"),
    ],
)
def test_verdicts_need_both_tests(values: list[float], interval: Interval | None, verdict: str) -> None:
    difference = ControlDifference("c", values, interval)
    assert difference.verdict(difference.p_seeds) == verdict


def test_p_values_of_several_configurations_are_adjusted() -> None:
    table = SweepTable("T", rows=[row("c", [0.5, 0.5, 0.5]), row("a", [0.6, 0.61, 0.62]), row("b", [0.5, 0.53, 0.51])])
    for line in table.rows[1:]:
        line.difference = ControlDifference("c", [value - 0.5 for value in line.values["accuracy"]])
    p = {line.label: line.difference.p_seeds for line in table.rows if line.difference}
    assert table.p_holm == {"a": pytest.approx(2 * p["a"]), "b": pytest.approx(p["b"])} and p["a"] < p["b"]
    text = to_markdown(table).decode()
    assert "| p by Holm | Detectable |" in text
    assert json.loads(to_json(table))["rows"][1]["against"]["p_holm"] == pytest.approx(2 * p["a"])


def test_a_verdict_allows_for_the_number_of_comparisons() -> None:
    values = [0.6, 0.62, 0.66]  # p = 0.020 over seeds
    table = SweepTable("T", rows=[row("c", [0.5, 0.5, 0.5]), row("a", values), row("b", [0.5, 0.53, 0.51])])
    table.rows[1].difference = ControlDifference("c", [value - 0.5 for value in values])
    assert json.loads(to_json(table))["rows"][1]["against"]["verdict"] == "higher"
    table.rows.append(row("d", [0.49, 0.53, 0.5]))
    for line in table.rows[2:]:
        line.difference = ControlDifference("c", [value - 0.5 for value in line.values["accuracy"]])
    against = json.loads(to_json(table))["rows"][1]["against"]
    assert against["p_seeds"] < 0.05 < against["p_holm"] and against["verdict"] == "not significant"
    assert to_markdown(table).decode().count("| not significant |") == 3


def test_a_sweep_names_the_devices_of_its_runs_and_stores_energies() -> None:
    lines = [
        row("c", [0.5], devices=["cpu, 1 thread, AVX2"]),
        row("a", [0.5], energies={"conv1": [0.5], "score": [2.0]}),
    ]
    lines[1].devices = ["cpu, 2 threads, AVX512"]
    table = SweepTable("T", rows=lines, cells=2, device="cuda:0")
    assert "2 runs on cpu, 1 thread, AVX2 and on cpu, 2 threads, AVX512;" in to_markdown(table).decode()
    stored = json.loads(to_json(table))["rows"][1]
    assert stored["energies"] == {"conv1": [0.5], "score": [2.0]} and stored["devices"] == lines[1].devices


def full_sweep() -> SweepTable:
    rows = [row("control", [0.5, 0.52]), row("m|h*e", [0.6, 0.64], interval=Interval(0.55, 0.7))]
    rows[1].difference = ControlDifference("control", [0.1, 0.12], Interval(0.02, 0.2), [0.01, 0.2])
    published = [{"name": "released", "metric": "accuracy", "value": 0.99, "source": "paper"}]
    failures = [{"label": "wild", "seed": 1, "reason": "the loss is nan"}]
    return SweepTable(
        "T", rows=rows, cells=5, published=published, failures=failures, recipe="a: 1", command="sfplus sweep"
    )


def test_json_holds_values_statistics_and_verdicts() -> None:
    data = json.loads(to_json(full_sweep()))
    assert data["rows"][1]["metrics"]["accuracy"] == {
        "mean": 0.62, "spread": pytest.approx(0.0282843, rel=1e-5), "values": [0.6, 0.64],
    }  # fmt: skip
    assert data["rows"][1]["against"]["p_seeds"] == pytest.approx(0.0577, abs=1e-4)  # t = 11 with one degree of freedom
    assert data["rows"][1]["against"]["verdict"] == "not significant" and data["published"][0]["value"] == 0.99
    assert data["rows"][1]["interval"] == {"low": 0.55, "high": 0.7}


def test_markdown_tables_have_equal_numbers_of_columns() -> None:
    text = to_markdown(full_sweep()).decode()
    assert r"| m\|h\*e | 2 | 62.00 ± 2.83 | 60.00, 64.00 | 55.00 to 70.00 |" in text
    assert "| published: released | | 99.00 | paper | |" in text
    assert (
        r"| m\|h\*e | control | +11.00 ± 1.00 | 0.058 | 16.33 | +2.00 to +20.00 | 0.010, 0.20 | not significant |"
        in text
    )
    assert "| wild | 1 | the loss is nan |" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_table_fits_the_terminal(width: int) -> None:
    sweep = full_sweep()
    sweep.rows[1].label = "finetune.energy.weight=1, finetune.energy.power=0.25, a_word_" + 60 * "x"
    lines = to_text(sweep, width).splitlines()
    assert lines[0] == "T" and all(len(line) <= width for line in lines)
    if width >= 80:
        text = "\n".join(lines)
        assert "51.00 ± 1.41" in text and "+11.00 ± 1.00  not significant" in text and "published: released" in text
        assert " finetune.energy.weight=1,\n" in re.sub(r",  +.*", ",", text)


def test_a_table_of_one_run_has_no_spread() -> None:
    text = to_text(SweepTable("T", rows=[row("only\x1b[2J[bold]", [0.5])], cells=1))
    assert "50.00" in text and "±" not in text and r"only\x1b[2J[bold]" in text and "verdict" not in text
    assert to_text(SweepTable("none", cells=1)).startswith("none\n")


def test_the_page_is_self_contained_and_has_the_figures_of_the_markdown() -> None:
    sweep = full_sweep()
    sweep.rows[0].label = "<b>control</b>"
    page = to_html(sweep, {"Plot": b"\x89PNGx", "Curves": None}).decode()
    assert "&lt;b&gt;control&lt;/b&gt;" in page and page.count("<img") == 1 and "data:image/png;base64," in page
    for text in ("62.00 <small>± 2.83</small>", "55.00 to 70.00", "+11.00 <small>± 1.00</small>", "not significant",
                 "published: released", "the loss is nan", "sfplus sweep", "0.010, 0.20"):  # fmt: skip
        assert text in page, text
    assert not re.search(r"(?:src|href)=.(?!data:|#)", page) and "http" not in page.replace("http-equiv", "")
    rows = [re.findall(r"<t[hd][ >]", line) for line in page.splitlines() if line.strip().startswith(("<tr", "<thead"))]
    assert len({len(cells) for cells in rows[: len(sweep.rows) + 2]}) == 1  # heading, configurations, published
