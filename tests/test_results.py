"""The figures of the results pages are those of the stored files."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "pipelines" / "results"
sys.path.insert(0, str(ROOT / "docs"))
write_results = importlib.import_module("write_results")


def test_the_page_is_rendered_from_the_stored_results() -> None:
    """`make results` writes it."""
    assert write_results.PAGE.read_text("utf-8") == write_results.results_page()
    assert write_results.README.read_text("utf-8") == write_results.readme()


def test_every_folder_with_results_is_on_the_page() -> None:
    page = write_results.PAGE.read_text("utf-8")
    for file in RESULTS.glob("*/sweep.json"):
        assert f"({file.parent.name}/" in page, f"{file.parent.name} is not linked"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*/sweep.json")), ids=lambda file: file.parent.name)
def test_stored_means_and_verdicts_are_those_of_their_values(file: Path) -> None:
    sweep = write_results.Sweep(json.loads(file.read_text("utf-8")))
    for row in sweep.data["rows"]:
        for metric, stored in row["metrics"].items():
            values = sweep.values(row["label"], metric)
            if all(map(math.isfinite, values)):
                assert np.mean(values) == pytest.approx(stored["mean"]) and len(values) == len(row["seeds"])
        if row["against"]:
            control = sweep.values(row["against"]["control"], sweep.data["metric"])
            values = sweep.values(row["label"], sweep.data["metric"])
            assert row["against"]["values"] == pytest.approx([a - b for a, b in zip(values, control, strict=True)])
            assert sweep.difference(row["label"]).values == pytest.approx(row["against"]["values"])
            assert sweep.difference(row["label"]).mean == pytest.approx(row["against"]["mean"])
    assert "sfplus sweep" in sweep.data["command"]


def test_figures_are_formatted_from_values() -> None:
    against = {"control": "c", "values": [0.03, 0.01], "interval": {"low": -0.001, "high": 0.04}}
    values = {"c": ([0.5, 0.52], [10, 12], None), "a": ([0.53, 0.53], [11, 15], against)}
    rows = [
        {"label": label, "seeds": [0, 1], "against": difference,
         "metrics": {"accuracy": {"values": accuracy}, "min_angle": {"values": angle}}}
        for label, (accuracy, angle, difference) in values.items()
    ]  # fmt: skip
    sweep = write_results.Sweep({"metric": "accuracy", "rows": rows})
    assert sweep.text("c") == "51.00 ± 1.41" and sweep.effect("a") == "+2.00 ± 1.00"
    assert sweep.interval("a") == "−0.10 to +4.00" and sweep.change(["a"], "min_angle") == "1.0 to 3.0"
    assert sweep.smallest_p() == "0.3" and sweep.hours == "not recorded" and sweep.seeds == 2
    for row, seconds in zip(rows, ([1800.0, 1800.0], [900.0, 900.0]), strict=True):
        row["seconds"] = seconds
    assert sweep.hours == "1.5"
    rows[1]["seconds"] = [900.0, None]
    assert sweep.hours == "not recorded"
    assert sweep.pooled([["a"], ["a"]]) == "+2.00 (95 % interval +2.00 to +2.00)"


def test_published_logs_state_their_source() -> None:
    logs = json.loads((RESULTS / "published" / "logs.json").read_text("utf-8"))
    for part in logs.values():
        assert re.fullmatch(r"[0-9a-f]{40}", part["commit"]) and part["repository"].startswith("wy1iu/")
        assert all(run["best"] >= run["last"] for run in part["runs"].values())
