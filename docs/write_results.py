"""Write `pipelines/results/README.md` from its template and the stored results, and the figures of README.md."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from scipy.stats import t as student

from sfplus.reports.sweep_table import ControlDifference, format_value, is_share, standard_deviation
from sfplus.verification.significance import holm

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "pipelines" / "results"
TEMPLATE, PAGE, README = RESULTS / "README.md.jinja", RESULTS / "README.md", ROOT / "README.md"
SHIPPED = ROOT / "pretrained" / "sphereface10-distilled" / "config.json"


@dataclass(frozen=True)
class Sweep:
    """A stored sweep.

    Attributes:
        data: the content of its sweep.json.
    """

    data: dict[str, Any]

    def row(self, label: str) -> dict[str, Any]:
        """Return the row of a configuration."""
        return next(row for row in self.data["rows"] if row["label"] == label)

    @property
    def labels(self) -> list[str]:
        """The labels of the configurations."""
        return [row["label"] for row in self.data["rows"]]

    def values(self, label: str, metric: str = "accuracy") -> list[float]:
        """Return the values of a metric, one for each seed."""
        return [math.nan if value is None else value for value in self.row(label)["metrics"][metric]["values"]]

    def text(self, label: str, metric: str = "accuracy", digits: int = 2) -> str:
        """Return mean and standard deviation of a metric over the seeds, fractions in per cent."""
        values = np.array(self.values(label, metric)) * (100 if is_share(metric) else 1)
        mean = f"{self.mean(label, metric):.{digits}f}".replace("-", "−")
        return f"{mean} ± {standard_deviation(list(values)):.{digits}f}" if len(values) > 1 else mean

    def mean(self, label: str, metric: str = "accuracy") -> float:
        """Return the mean of a metric over the seeds, a fraction in per cent."""
        return float(np.mean(self.values(label, metric))) * (100 if is_share(metric) else 1)

    def range(self, label: str) -> str:
        """Return the lowest and the highest accuracy of its seeds, in per cent."""
        return f"{100 * min(self.values(label)):.1f} to {100 * max(self.values(label)):.1f}"

    def each(self, label: str, metric: str) -> str:
        """Return the value of each seed."""
        return ", ".join(f"{value:.1f}" for value in self.values(label, metric))

    def costs(self) -> str:
        """Return the smallest and the largest mean loss against the control, in points."""
        losses = [-100 * self.difference(row["label"]).mean for row in self.data["rows"] if row["against"]]
        return f"{min(losses):.1f} to {max(losses):.1f}"

    def difference(self, label: str, metric: str = "") -> ControlDifference:
        """Return the difference of a configuration from its control, seed by seed, in the main or another metric."""
        control, metric = self.row(label)["against"]["control"], metric or self.data["metric"]
        first, second = (dict(zip(self.row(n)["seeds"], self.values(n, metric), strict=True)) for n in (label, control))
        return ControlDifference(control, [value - second[seed] for seed, value in first.items() if seed in second])

    def effect(self, label: str, metric: str = "") -> str:
        """Return the mean difference from the control in points, with its standard error over the seeds."""
        difference, metric = self.difference(label, metric), metric or self.data["metric"]
        return f"{format_value(metric, difference.mean, '+')} ± {format_value(metric, difference.standard_error)}"

    def detectable(self, label: str, metric: str = "") -> str:
        """Return the smallest difference that its seeds would have shown four times out of five."""
        return format_value(metric or self.data["metric"], self.difference(label, metric).detectable)

    def interval(self, label: str) -> str:
        """Return the interval over people of the difference from the control in points."""
        interval = self.row(label)["against"]["interval"]
        return f"{format_value('accuracy', interval['low'], '+')} to {format_value('accuracy', interval['high'], '+')}"

    def smallest_p(self, metric: str = "") -> str:
        """Return the smallest p-value over the seeds of all comparisons, adjusted by Holm's method."""
        differences = (self.difference(row["label"], metric).p_seeds for row in self.data["rows"] if row["against"])
        return f"{np.nanmin(holm(list(differences))):.2g}"

    def change(self, labels: list[str], metric: str) -> str:
        """Return the range of differences from the controls in a metric, over configurations and seeds."""
        changes = [value for label in labels for value in self.difference(label, metric).values]
        return f"{min(changes):.1f} to {max(changes):.1f}".replace("-", "−")

    def pooled(self, groups: list[list[str]]) -> str:
        """Return the mean effect in points over groups with different starts, and its 95 % interval over groups."""
        means = [100 * float(np.mean([self.difference(label).mean for label in labels])) for labels in groups]
        half = student.ppf(0.975, len(means) - 1) * standard_deviation(means) / math.sqrt(len(means))
        low, mean, high = (f"{np.mean(means) + shift:+.2f}".replace("-", "−") for shift in (-half, 0, half))
        return f"{mean} (95 % interval {low} to {high})"

    @property
    def seeds(self) -> int:
        """The number of seeds of most configurations."""
        return max(len(row["seeds"]) for row in self.data["rows"])

    @property
    def hours(self) -> str:
        """The hours of training of all runs, if they were stored; a training that runs share counts for each."""
        seconds = [value for row in self.data["rows"] for value in row.get("seconds", [None])]
        return "not recorded" if None in seconds else f"{sum(seconds) / 3600:.1f}"


def results_page() -> str:
    """Return the page of results, rendered from its template."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    stored: dict[str, Callable[..., Any] | Any] = {
        "sweep": lambda name: Sweep(json.loads((RESULTS / name / "sweep.json").read_text("utf-8"))),
        "has": lambda name: (RESULTS / name / "sweep.json").is_file(),
        "logs": json.loads((RESULTS / "published" / "logs.json").read_text("utf-8")),
        "shipped": json.loads(SHIPPED.read_text("utf-8"))["verification"],
    }
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(stored)


def readme() -> str:
    """Return README.md with the accuracy of the shipped model, which its folder holds."""
    verification = json.loads(SHIPPED.read_text("utf-8"))["verification"]
    figure = f"{100 * verification['accuracy']:.2f} % +- {100 * verification['standard_error']:.2f}"
    text, count = re.subn(
        r"(?m)^(\| `sphereface10-distilled`, shipped .*\| )[^|]+( \|)$",
        rf"\g<1>{figure}\g<2>",
        README.read_text("utf-8"),
    )
    assert count == 1, "README.md has no row of the shipped model"
    return text


if __name__ == "__main__":
    PAGE.write_text(results_page(), "utf-8")
    README.write_text(readme(), "utf-8")
