"""Tables and pictures of a sweep."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_rel

from sfplus.reports.sweep_plot import sweep_curves, sweep_plot
from sfplus.reports.sweep_table import Difference, Row, Sweep, spread, to_json, to_markdown
from sfplus.verification.bootstrap import Interval


def row(label: str, accuracy: list[float], **more: object) -> Row:
    history = [{"step": step, "loss": 1 / step, "accuracy": 0.5} for step in (1, 2, 3)]
    seeds = list(range(len(accuracy)))
    return Row(label, {}, seeds, {"accuracy": accuracy}, histories=[history] * len(seeds), **more)  # type: ignore[arg-type]


def test_the_difference_is_tested_over_seeds() -> None:
    own, other = np.array([0.91, 0.93, 0.92, 0.95]), np.array([0.90, 0.91, 0.92, 0.91])
    found = Difference("c", (own - other).tolist())
    assert found.p_seeds == pytest.approx(ttest_rel(own, other).pvalue)
    assert found.mean == pytest.approx(0.0175) and found.standard_error == pytest.approx(0.0170783 / 2, rel=1e-4)
    assert spread([1.0, 2.0, 3.0]) == 1.0 and math.isnan(spread([1.0]))


@pytest.mark.parametrize(
    ("values", "interval", "verdict"),
    [
        ([0.1], None, "one seed shows nothing"),
        ([0.1], Interval(0.05, 0.15), "more than chance on these pairs, but one seed only"),
        ([0.0, 0.0], None, "no difference shown"),
        ([0.1, 0.1], None, "no difference shown"),
        ([0.1, 0.1, 0.1], None, "higher"),
        ([-0.1, -0.1, -0.11], None, "lower"),
        ([0.1, 0.1, 0.11], Interval(-0.01, 0.2), "no difference shown"),
        ([0.1, 0.1, 0.11], Interval(0.01, 0.2), "higher"),
        ([0.1, -0.1, 0.11], Interval(0.01, 0.2), "no difference shown"),
    ],
)
def test_verdicts(values: list[float], interval: Interval | None, verdict: str) -> None:
    assert Difference("c", values, interval).verdict == verdict


def whole() -> Sweep:
    rows = [row("control", [0.5, 0.52]), row("m|h*e", [0.6, 0.64], interval=Interval(0.55, 0.7))]
    rows[1].against = Difference("control", [0.1, 0.12], Interval(0.02, 0.2), [0.01, 0.2])
    published = [{"name": "theirs", "metric": "accuracy", "value": 0.99, "source": "paper"}]
    failures = [{"label": "wild", "seed": 1, "reason": "the loss is nan"}]
    return Sweep("T", rows=rows, cells=5, published=published, failures=failures, recipe="a: 1", command="sfplus sweep")


def test_json_says_all() -> None:
    data = json.loads(to_json(whole()))
    assert data["rows"][1]["metrics"]["accuracy"] == {
        "mean": 0.62, "spread": pytest.approx(0.0282843, rel=1e-5), "values": [0.6, 0.64],
    }  # fmt: skip
    assert data["rows"][1]["against"]["p_seeds"] == pytest.approx(0.0577, abs=1e-4)  # t = 11 of one degree of freedom
    assert data["rows"][1]["against"]["verdict"] == "no difference shown" and data["published"][0]["value"] == 0.99
    assert data["rows"][1]["interval"] == {"low": 0.55, "high": 0.7}


def test_markdown_has_whole_tables() -> None:
    text = to_markdown(whole()).decode()
    assert r"| m\|h\*e | 2 | 62.00 ± 2.83 | 60.00, 64.00 | 55.00 to 70.00 |" in text
    assert "| published: theirs | | 99.00 | paper | |" in text
    assert (
        r"| m\|h\*e | control | +11.00 ± 1.00 | 0.058 | +2.00 to +20.00 | 0.010, 0.20 | no difference shown |" in text
    )
    assert "| wild | 1 | the loss is nan |" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1, table


def test_pictures_grow_with_the_rows_and_hold_odd_names() -> None:
    sweep = whole()
    small = Image.open(io.BytesIO(sweep_plot(sweep)))
    sweep.rows += [row(f"_$x_{i}$", [0.5]) for i in range(20)]
    large = Image.open(io.BytesIO(sweep_plot(sweep)))
    assert large.height > small.height + 20 * 40 and large.width == small.width
    curves = sweep_curves(sweep)
    assert curves and Image.open(io.BytesIO(curves)).width > 1000
    for one in sweep.rows:
        one.histories = []
    assert sweep_curves(sweep) is None
