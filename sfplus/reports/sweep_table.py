"""The table of a sweep: mean and spread of each configuration over its seeds, and its difference from a control."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from sfplus.reports.jinja_filters import markdown_templates
from sfplus.reports.metrics import plain
from sfplus.verification.bootstrap import Interval

LEVEL = 0.95
_PLAIN = {"class_energy": "class energy, s = 2", "min_angle": "smallest angle between classes, degrees"}


@dataclass(frozen=True)
class Difference:
    """How a configuration stands against its control, seed by seed.

    Attributes:
        control: what the control is called.
        values: its figure less the control's, for each seed that both have.
        interval: of their mean, over the people in the pairs; None where there are no pairs.
        p: McNemar's, for each seed; empty where there are no pairs.
    """

    control: str
    values: list[float]
    interval: Interval | None = None
    p: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def standard_error(self) -> float:
        """Of the mean, over the seeds; not a number for a single one."""
        return spread(self.values) / math.sqrt(len(self.values))

    @property
    def p_seeds(self) -> float:
        """How often chance between seeds alone would give such a mean (Student's t); not a number for a single one."""
        if len(self.values) < 2 or not any(self.values):
            return math.nan if len(self.values) < 2 else 1.0
        if spread(self.values) < 1e-9:  # equal by the coarseness of shares; two of them are no sign
            return 0.0 if len(self.values) > 2 else math.nan
        return float(ttest_1samp(self.values, 0.0).pvalue)

    @property
    def verdict(self) -> str:
        """What it comes to, in plain words."""
        if len(self.values) < 2:
            chance = self.interval is None or self.interval.low <= 0 <= self.interval.high
            return "one seed shows nothing" if chance else "more than chance on these pairs, but one seed only"
        if self.interval is not None and self.interval.low <= 0 <= self.interval.high:
            return "no difference shown"
        if not self.p_seeds < 1 - LEVEL:
            return "no difference shown"
        return "lower" if self.mean < 0 else "higher"


@dataclass
class Row:
    """A configuration, or a model that several of them started from.

    Attributes:
        label: what it is called.
        choices: what it chose on each axis.
        seeds: numbers of its runs.
        values: of each metric, a value for each run.
        artefacts: fingerprint of each run's final artefact.
        histories: rows of the training history of each run.
        interval: of the mean accuracy, over the people in the pairs.
        against: how it stands against its control.
    """

    label: str
    choices: Mapping[str, str]
    seeds: list[int]
    values: dict[str, list[float]]
    artefacts: list[str] = field(default_factory=list)
    histories: list[list[dict[str, Any]]] = field(default_factory=list)
    interval: Interval | None = None
    against: Difference | None = None


@dataclass
class Sweep:
    """All that a sweep found.

    Attributes:
        title: heading.
        metric: the figure that is compared.
        rows: of the table.
        cells: how many runs there are to be.
        failures: `label`, `seed` and `reason` of each run that failed.
        published: `name`, `metric`, `value` and `source` of published figures.
        protocol: of the verification.
        command: what makes it again.
        recipe: the recipe's text.
        versions: of the packages.
        device: what it ran on.
    """

    title: str
    metric: str = "accuracy"
    rows: list[Row] = field(default_factory=list)
    cells: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    protocol: str = ""
    command: str = ""
    recipe: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""

    @property
    def metrics(self) -> list[str]:
        """All metrics, the one that is compared first."""
        return list(dict.fromkeys([self.metric, *(name for row in self.rows for name in row.values)]))


def spread(values: Sequence[float]) -> float:
    """Standard deviation (divisor n - 1); not a number for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def is_share(metric: str) -> bool:
    """Whether a metric is a share, shown in per cent."""
    return metric.endswith(("accuracy", "standard_error"))


def title_of(metric: str) -> str:
    """What a metric is called."""
    return _PLAIN.get(metric, metric.replace("_", " ")) + ", %" * is_share(metric)


def number(metric: str, value: float, sign: str = "") -> str:
    """A value of a metric as text; shares in per cent, without the sign."""
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:{sign}.2f}" if is_share(metric) else f"{value:{sign}.4g}"
    return text.replace("-", "−")


def said(metric: str, value: float) -> str:
    """A value of a metric in words."""
    return f"{metric.replace('_', ' ')} {number(metric, value)}{' %' * is_share(metric)}"


def to_json(sweep: Sweep) -> bytes:
    """The sweep as data; what is not a number is null."""
    rows = []
    for row in sweep.rows:
        metrics = {
            name: {"mean": np.mean(values), "spread": spread(values), "values": values}
            for name, values in row.values.items()
        }
        found: dict[str, Any] = {"label": row.label, "choices": row.choices, "seeds": row.seeds, "metrics": metrics}
        found |= {"artefacts": row.artefacts, "interval": row.interval, "against": row.against}
        if row.against:
            said = ("mean", "standard_error", "p_seeds", "verdict")
            found["against"] = plain(row.against) | {name: getattr(row.against, name) for name in said}
        rows.append(found)
    names = ("title", "metric", "protocol", "cells", "failures", "published", "command", "recipe", "versions", "device")
    data = {name: getattr(sweep, name) for name in names} | {"rows": rows}
    return (json.dumps(plain(data), indent=1) + "\n").encode()


def to_markdown(sweep: Sweep) -> bytes:
    """The sweep as tables to read."""
    template = markdown_templates().get_template("sweep.md.jinja")
    known = {"mean": np.mean, "spread": spread, "number": number, "title_of": title_of, "level": LEVEL}
    return (template.render(sweep=sweep, **known).strip() + "\n").encode()
