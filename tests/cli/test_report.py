"""`sfplus report` writes one page about several runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import Pairs
from sfplus.reports.html import Report, render
from sfplus.verification.protocols import sphereface

SAME, FOLD = np.arange(400) % 2 == 0, np.repeat(np.arange(10, dtype=np.int64), 40)
PAIRS = Pairs(
    tuple(f"Person_{i % 80}/Person_{i % 80}_{i:04d}" for i in range(400)),
    tuple(f"Person_{(i + (i % 2)) % 80}/Person_{(i + (i % 2)) % 80}_{i + 400:04d}" for i in range(400)),
    SAME, FOLD,
)  # fmt: skip


def write_run(folder: Path, noise: float, seed: int, pairs: Pairs = PAIRS, name: str = "Net") -> Path:
    """Write the report of features with the given noise, which decides how accurate they are."""
    rng = np.random.default_rng(99)
    left, right = rng.normal(size=(2, 400, 16))
    right[SAME] = left[SAME]
    noises = np.random.default_rng(seed).normal(size=(2, 400, 16)) * noise
    result = sphereface(left + noises[0], right + noises[1], SAME, FOLD)
    published = [{"name": "Net, released", "accuracy": 0.99, "source": "its README"}]
    render(Report(title="x", results={name: result}, pairs={name: pairs}, published=published), folder)
    return folder


def report(sfplus: Callable, tmp_path: Path, *runs: object) -> tuple[dict, str]:
    answer = sfplus("report", *runs, "--workspace", tmp_path / "data", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    data = json.loads((tmp_path / "out/report.json").read_bytes())
    assert answer.out == "".join(f"{line}\n" for line in [*data["verdicts"], f"report: {tmp_path / 'out/report.html'}"])
    return data, (tmp_path / "out/report.html").read_text()


@pytest.mark.slow
def test_runs_of_the_same_pairs_are_compared(tmp_path: Path, sfplus: Callable) -> None:
    poor = write_run(tmp_path / "data/runs/poor", 3, 0)
    good = write_run(tmp_path / "elsewhere/good", 0.7, 1)
    fair = write_run(tmp_path / "data/runs/fair", 0.7, 2)
    data, page = report(sfplus, tmp_path, "poor", good, fair / "report.json")
    assert list(data["results"]) == ["poor: Net", "good: Net", "fair: Net"] and data["notice"] == ""
    rows = {(row["first"], row["second"]): row for row in data["comparisons"]}
    assert rows["poor: Net", "good: Net"]["real"] and rows["poor: Net", "good: Net"]["difference"] > 0.1
    assert not rows["good: Net", "fair: Net"]["real"] and len(rows) == 3
    assert ">not significant<" in page and ">significant<" in page and page.count("published: its README") == 1
    accuracy = json.loads((poor / "report.json").read_bytes())["results"]["Net"]["accuracy"]
    assert data["results"]["poor: Net"]["accuracy"] == accuracy
    assert "sfplus report poor" in data["command"]
    (tmp_path / "out").rename(tmp_path / "once")
    again, _ = report(sfplus, tmp_path, tmp_path / "once")
    assert again["comparisons"] == data["comparisons"]


@pytest.mark.slow
@pytest.mark.plots
def test_a_single_difference_is_described_in_words(tmp_path: Path, sfplus: Callable) -> None:
    write_run(tmp_path / "data/runs/a", 0.7, 1)
    write_run(tmp_path / "data/runs/b", 0.7, 2)
    _, page = report(sfplus, tmp_path, "a", "b")
    assert "The difference is not significant." in page and "one pair is 0.2500 points" in page
    write_run(tmp_path / "data/runs/b", 3, 2)
    _, page = report(sfplus, tmp_path, "a", "b")
    assert "a: Net is better than b: Net on these pairs." in page


@pytest.mark.slow
def test_runs_of_different_pairs_are_not_compared(tmp_path: Path, sfplus: Callable) -> None:
    write_run(tmp_path / "data/runs/a", 0.7, 1)
    swapped = replace(PAIRS, left=PAIRS.right, right=PAIRS.left)
    write_run(tmp_path / "data/runs/b", 0.7, 2, swapped, "Other")
    data, page = report(sfplus, tmp_path, "a", "b")
    assert data["comparisons"] == [] and "Not all of these models were verified on the same pairs" in page
    assert list(data["results"]) == ["Net", "Other"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nope"], 2, "there is no report of 'nope'; runs: a"),
        (["a", "a"], 2, "a run is given twice"),
        (["a", "--out", "data/runs/a"], 2, "holds the report of one of the runs; choose another --out"),
        (
            ["text.json"],
            1,
            "text.json: is damaged (Expecting value: line 1 column 1 (char 0)); give the report.json of",
        ),
        (["empty.json"], 1, "empty.json: is damaged"),
        (["none.json"], 1, "none.json: holds no result"),
        (["damaged.json"], 1, "damaged.json: is damaged (results.Net.scores: Field required)"),
        (["folds.json"], 1, "folds.json: is damaged (results.Net: Value error, a pair is in no fold)"),
        (["deep.json"], 1, "deep.json: is damaged"),
        ([], 2, "Missing argument"),
    ],
)
def test_invalid_runs_are_reported_in_one_line(
    words: list[str], code: int, message: str, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = json.loads((write_run(Path("data/runs/a"), 1, 0) / "report.json").read_bytes())
    Path("text.json").write_text("hello")
    Path("empty.json").write_text("[]")
    Path("deep.json").write_text("[" * 100_000)
    Path("none.json").write_text('{"results": {}}')
    data["results"]["Net"]["fold"][0] = 77
    Path("folds.json").write_text(json.dumps(data))
    del data["results"]["Net"]["scores"]
    Path("damaged.json").write_text(json.dumps(data))
    answer = sfplus("report", *words)
    assert answer.code == code and message in answer.err and "Traceback" not in answer.err, answer
    assert len(answer.err.strip().splitlines()) == 1 or code == 2
