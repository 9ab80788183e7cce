"""The table of a sweep: means and standard deviations over the seeds, and differences from the control."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text
from scipy.stats import ttest_1samp

from sfplus.errors import one_line
from sfplus.reports.jinja_filters import markdown_templates, page_templates
from sfplus.reports.metrics import to_json_value
from sfplus.verification.bootstrap import Interval
from sfplus.verification.significance import detectable_difference, holm

LEVEL = 0.95  # nominal coverage of the intervals
_TITLES = {
    "class_energy": "class energy, s = 2",
    "min_angle": "smallest angle between classes, degrees",
    "tpir_at_fpir_0.01": "TPIR at FPIR 0.01",
    "tpir_at_fpir_0.1": "TPIR at FPIR 0.1",
    "rank_1_megaface": "rank 1 by MegaFace's protocol",
    "training_energy_degrees": "dose of the energy, degrees",
    "within_class_angle": "angle of a feature to its class, degrees",
    "scarce_classifier_angle": "angle of the scarce class to the nearest other, degrees",
}


@dataclass(frozen=True)
class ControlDifference:
    """The difference of a configuration from its control, seed by seed.

    Attributes:
        control: label of the control.
        values: the configuration's value minus the control's, for each seed that both have.
        interval: of the mean difference in accuracy, over the people in the pairs; None without pairs.
        p: McNemar's p-value for each seed; empty without pairs.
    """

    control: str
    values: list[float]
    interval: Interval | None = None
    p: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over the seeds; NaN for a single seed."""
        return standard_deviation(self.values) / math.sqrt(len(self.values))

    @property
    def p_seeds(self) -> float:
        """The p-value of Student's t-test of the differences against 0; NaN for a single seed."""
        if len(self.values) < 2 or not any(self.values):
            return math.nan if len(self.values) < 2 else 1.0
        if standard_deviation(self.values) < 1e-9:  # equal because accuracies are coarse; two such seeds prove nothing
            return 0.0 if len(self.values) > 2 else math.nan
        return float(ttest_1samp(self.values, 0.0).pvalue)

    @property
    def detectable(self) -> float:
        """The smallest difference that as many seeds would show four times out of five; NaN for a single seed."""
        return detectable_difference(self.values, level=LEVEL)

    def verdict(self, p: float) -> str:
        """Return the conclusion in words, from `p_seeds` as adjusted for the number of comparisons."""
        chance = self.interval is not None and self.interval.low <= 0 <= self.interval.high
        if len(self.values) < 2:
            if self.interval is None or chance:
                return "one seed is not conclusive"
            return "significant on these pairs, but only one seed"
        if chance or not p < 1 - LEVEL:
            return "not significant"
        return "lower" if self.mean < 0 else "higher"


@dataclass
class SweepRow:
    """A configuration, or a model that several configurations started from.

    Attributes:
        label: its name.
        choices: its value on each axis of the sweep.
        seeds: the seeds of its runs.
        values: for each metric, a value for each run.
        artefacts: fingerprint of the final artefact of each run.
        histories: rows of the training history of each run.
        interval: of the mean accuracy, over the people in the pairs.
        difference: from its control.
        model: the face network by its head, margin and energy; empty if there is none.
        energies: for each layer of an image classifier, the energy at the end of each run, without its weight.
        devices: on which its runs were made.
        seconds: of the training of each run.
        models: fingerprint of the artefact with the trained weights of each run.
    """

    label: str
    choices: Mapping[str, str]
    seeds: list[int]
    values: dict[str, list[float]]
    artefacts: list[str] = field(default_factory=list)
    histories: list[list[dict[str, Any]]] = field(default_factory=list)
    interval: Interval | None = None
    difference: ControlDifference | None = None
    model: str = ""
    energies: dict[str, list[float]] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


@dataclass
class SweepTable:
    """The results of a sweep.

    Attributes:
        title: heading.
        metric: the metric that is compared.
        rows: the rows of the table.
        cells: the number of planned runs.
        failures: `label`, `seed` and `reason` of each run that failed.
        published: `name`, `metric`, `value` and `source` of published figures.
        protocol: the verification protocol.
        command: the command that reproduces the sweep.
        recipe: the text of the recipe.
        versions: version by name of the package.
        device: name of the device of this command; runs from the cache may have another one.
    """

    title: str
    metric: str = "accuracy"
    rows: list[SweepRow] = field(default_factory=list)
    cells: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    protocol: str = ""
    command: str = ""
    recipe: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""

    @property
    def devices(self) -> list[str]:
        """The devices on which the runs were made."""
        return list(dict.fromkeys(device for row in self.rows for device in row.devices)) or [self.device]

    @property
    def p_holm(self) -> dict[str, float]:
        """The p-values over seeds of all configurations, adjusted by Holm's method, by label."""
        compared = {row.label: row.difference.p_seeds for row in self.rows if row.difference}
        return dict(zip(compared, holm(list(compared.values())), strict=True))

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, starting with the one that is compared."""
        return list(dict.fromkeys([self.metric, *(name for row in self.rows for name in row.values)]))


def standard_deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation (divisor n - 1); NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def is_share(metric: str) -> bool:
    """Return whether a metric is a fraction that is displayed in per cent."""
    return metric.endswith(("accuracy", "standard_error")) or metric.startswith(("rank_", "tpir_at_"))


def metric_title(metric: str) -> str:
    """Return the display name of a metric, with its unit."""
    return _TITLES.get(metric, metric.replace("_", " ")) + ", %" * is_share(metric)


def format_value(metric: str, value: float, sign: str = "") -> str:
    """Format a value of a metric; fractions in per cent, without the symbol.

    Args:
        metric: name of the metric.
        value: its value; a dash stands for a value that is not finite.
        sign: "+" to write the sign of positive values too.
    """
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:{sign}.2f}" if is_share(metric) else f"{value:{sign}.4g}"
    return text.replace("-", "−")


def format_metric(metric: str, value: float) -> str:
    """Format a metric with its name, value and unit."""
    return f"{metric.replace('_', ' ')} {format_value(metric, value)}{' %' * is_share(metric)}"


def to_json(table: SweepTable) -> bytes:
    """Return the table as JSON; values that are not finite become null."""
    rows, p_holm = [], table.p_holm
    for row in table.rows:
        metrics = {
            name: {"mean": np.mean(values), "spread": standard_deviation(values), "values": values}
            for name, values in row.values.items()
        }
        difference = None
        if row.difference:
            statistics = ("mean", "standard_error", "p_seeds", "detectable")
            difference = to_json_value(row.difference) | {name: getattr(row.difference, name) for name in statistics}
            difference |= {"verdict": row.difference.verdict(p_holm[row.label]), "p_holm": p_holm[row.label]}
        rows.append({
            "label": row.label, "model": row.model, "choices": row.choices, "seeds": row.seeds, "metrics": metrics,
            "artefacts": row.artefacts, "models": row.models, "devices": row.devices, "seconds": row.seconds,
            "energies": row.energies,
            "interval": row.interval, "against": difference,
        })  # fmt: skip
    names = ("title", "metric", "protocol", "cells", "failures", "published", "command", "recipe", "versions", "device")
    data = {name: getattr(table, name) for name in names} | {"rows": rows}
    return (json.dumps(to_json_value(data), indent=1) + "\n").encode()


def to_markdown(table: SweepTable) -> bytes:
    """Return the table as Markdown."""
    text = markdown_templates().get_template("sweep.md.jinja").render(sweep=table, **_HELPERS)
    return (text.strip() + "\n").encode()


def to_html(table: SweepTable, plots: Mapping[str, bytes | None]) -> bytes:
    """Return the table as a self-contained page.

    Args:
        table: the results.
        plots: PNG images by their titles; None for a plot that there is not.
    """
    images = {title: image for title, image in plots.items() if image}
    page = page_templates().get_template("sweep.html.jinja").render(sweep=table, plots=images, **_HELPERS)
    return page.encode()


def to_text(table: SweepTable, width: int = 80) -> str:
    """Return the metric that is compared as a table that fits a terminal of this width.

    Args:
        table: the results.
        width: number of columns; long labels are wrapped.
    """
    several = any(len(row.seeds) > 1 for row in table.rows)
    compared = any(row.difference for row in table.rows)
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("configuration", overflow="fold", ratio=1)
    for title in ("seeds", metric_title(table.metric), *["difference", "verdict"] * compared):
        grid.add_column(title, justify="left" if title == "verdict" else "right", no_wrap=width >= 80)
    for row in table.rows:
        values, difference = row.values.get(table.metric, []), row.difference
        cells = [
            one_line(row.label).replace(", ", ",\n"),
            str(len(row.seeds)),
            _mean_and_spread(table.metric, values) if values else "",
        ]
        if compared and difference:
            change = format_value(table.metric, difference.mean, "+")
            change += f" ± {format_value(table.metric, difference.standard_error)}" * (len(difference.values) > 1)
            cells += [change, difference.verdict(table.p_holm[row.label])]
        grid.add_row(*map(rich.text.Text, cells))
    for entry in table.published:
        if entry["metric"] == table.metric:
            cells = [f"published: {one_line(entry['name'])}", "", format_value(table.metric, entry["value"])]
            grid.add_row(*map(rich.text.Text, cells))
    console = rich.console.Console(width=width, file=io.StringIO(), color_system=None)
    console.print(grid)
    lines = [line.rstrip() for line in cast(io.StringIO, console.file).getvalue().splitlines()]
    note = "mean ± standard deviation over the seeds; of a difference ± its standard error" if several else ""
    return "\n".join([one_line(table.title), *filter(None, lines), *textwrap.wrap(note, width)])


def _mean_and_spread(metric: str, values: Sequence[float]) -> str:
    spread = f" ± {format_value(metric, standard_deviation(values))}" * (len(values) > 1)
    return format_value(metric, float(np.mean(values))) + spread


_HELPERS: dict[str, Any] = {
    "mean": np.mean, "standard_deviation": standard_deviation, "format_value": format_value,
    "metric_title": metric_title, "level": LEVEL,
}  # fmt: skip
