"""Plots of a sweep: the result of each configuration with its standard deviation, and the training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sfplus.errors import one_line
from sfplus.reports.figures import SERIES, is_finite, to_png
from sfplus.reports.sweep_table import (
    SweepRow,
    SweepTable,
    format_value,
    is_share,
    metric_title,
    standard_deviation,
)

_PUBLISHED = "#d55e00"
_DASHES = ("-", "--", ":", "-.")
_TITLES = {
    "accuracy": "accuracy, %", "loss": "training loss", "energy": "energy",
    "spread/head/min_angle": "smallest angle between classes, degrees",
}  # fmt: skip
_CURVES = (*_TITLES, "generator_loss", "discriminator_loss")
_CHARACTER = 0.07  # width of a character of the legend in inches
_PANELS, _LINES, _POINTS = 3, 12, 200  # drawn at most


def sweep_plot(sweep: SweepTable) -> bytes:
    """Plot one row per configuration: a dot per seed, mean and standard deviation; and the published figures.

    Args:
        sweep: the results, with at least one row that has the metric that is compared.

    Returns:
        A PNG.
    """
    rows = [row for row in sweep.rows if row.values.get(sweep.metric)]
    published = [entry for entry in sweep.published if entry["metric"] == sweep.metric]
    count = len(rows) + len(published)
    figure = Figure(figsize=(8, 1.5 + 0.34 * count), dpi=130, layout="constrained")
    figure.suptitle(one_line(sweep.title), fontsize=11)
    axes = figure.subplots()
    for y, row in enumerate(rows):
        _draw_row(axes, y, row.values[sweep.metric], sweep.metric)
    axes.set_xlim(*_limits(rows, sweep.metric, [entry["value"] for entry in published]))
    for y, entry in enumerate(published, len(rows)):
        _draw_published(axes, y, entry["value"], sweep.metric)
    names = [row.label for row in rows] + [f"published: {entry['name']}" for entry in published]
    axes.set_yticks(range(count), [one_line(name) for name in names], fontsize=9, parse_math=False)
    for label in axes.get_yticklabels()[len(rows) :]:
        label.set_color(_PUBLISHED)
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.4, color="#dddddd")
    axes.spines[["top", "right", "left"]].set_visible(False)
    _format_axis(axes.xaxis, sweep.metric)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    legend = "dots: seeds; bar: standard deviation over the seeds" if any(len(row.seeds) > 1 for row in rows) else ""
    axes.set_xlabel("\n".join(filter(None, [metric_title(sweep.metric), legend])), fontsize=9)
    return to_png(figure)


def sweep_curves(sweep: SweepTable) -> bytes | None:
    """Plot the training curves of each configuration: the mean over its seeds and their range.

    Args:
        sweep: the results, of which the first 12 configurations with a history and three metrics are drawn.

    Returns:
        A PNG, or None without histories.
    """
    rows = [row for row in sweep.rows if any(row.histories)][:_LINES]
    metrics = [metric for metric in _CURVES if any(len(_curve(row, metric)[0]) for row in rows)][:_PANELS]
    if not metrics:
        return None
    width, longest = 4.2 * len(metrics), max(len(one_line(row.label)) for row in rows)
    columns = max(1, min(3, int(width / (_CHARACTER * (longest + 6)))))
    height = 3.4 + 0.2 * math.ceil(len(rows) / columns)
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    figure.suptitle(one_line(sweep.title), fontsize=11)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for k, row in enumerate(rows):
            _draw_curve(axes, k, *_curve(row, metric))
        axes.set_title(_TITLES.get(metric) or metric_title(metric), fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        _format_axis(axes.yaxis, metric)
        axes.tick_params(labelsize=8)
        axes.grid(linewidth=0.4, color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
    handles = [Axes.plot(axes, [], [], **_style(k))[0] for k in range(len(rows))]
    legend = figure.legend(handles, [str(k) for k in range(len(rows))], loc="outside lower center", ncols=columns,
                           fontsize=8, frameon=False)  # fmt: skip
    for text, row in zip(legend.get_texts(), rows, strict=True):
        text.set_text(one_line(row.label))  # set afterwards: matplotlib ignores labels with a leading underscore
        text.set_parse_math(False)
    return to_png(figure)


def _draw_row(axes: Axes, y: int, values: Sequence[float], metric: str) -> None:
    """Draw the values of all seeds, their mean and standard deviation, and write the figure in the margin."""
    mean, deviation = float(np.mean(values)), standard_deviation(values)
    if len(values) > 1:
        axes.plot(values, [y + 0.22] * len(values), "o", color=SERIES[0], alpha=0.5, markersize=4, markeredgewidth=0)
    error = None if math.isnan(deviation) else deviation
    axes.errorbar(mean, y, xerr=error, fmt="|", color=SERIES[0], markersize=13, markeredgewidth=2, elinewidth=1.4,
                  capsize=3)  # fmt: skip
    text = format_value(metric, mean) + ("" if error is None else f" ± {format_value(metric, error)}")
    axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), fontsize=8, va="center")


def _draw_published(axes: Axes, y: int, value: float, metric: str) -> None:
    """Draw a published figure, as an arrow at the edge if it lies outside the limits of the axes."""
    low, high = axes.get_xlim()
    if low <= value <= high:
        axes.axvline(value, color=_PUBLISHED, linewidth=1, linestyle=(0, (4, 2)))
        axes.plot(value, y, "D", color=_PUBLISHED, markersize=5)
    else:
        axes.plot(min(max(value, low), high), y, ">" if value > high else "<", color=_PUBLISHED, clip_on=False)
    axes.annotate(format_value(metric, value), (1.01, y), xycoords=("axes fraction", "data"), fontsize=8, va="center",
                  color=_PUBLISHED)  # fmt: skip


def _limits(rows: Sequence[SweepRow], metric: str, published: Sequence[float]) -> tuple[float, float]:
    """Return limits that include all measured values, and those published values that are not too far from them."""
    measured = [value for row in rows for value in row.values[metric]]
    for row in rows:
        if len(row.seeds) > 1:
            mean, deviation = float(np.mean(row.values[metric])), standard_deviation(row.values[metric])
            measured += [mean - deviation, mean + deviation]
    low, high = min(measured), max(measured)
    reach = max(2 * (high - low), 0.002 * abs(high), 1e-6)
    near = [value for value in published if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = max(0.08 * (high - low), 0.1 * reach)
    return low - margin, high + margin


def _curve(row: SweepRow, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps (S,) that all seeds have in common, and the values (seeds, S)."""
    runs = [_points(history, metric) for history in row.histories if history]
    steps = sorted(set.intersection(*(set(points) for points in runs))) if runs else []
    if len(steps) > _POINTS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, _POINTS).astype(int)]
    return np.array(steps, float), np.array([[points[step] for step in steps] for points in runs], float)


def _points(history: Sequence[dict[str, Any]], metric: str) -> dict[int, float]:
    """Return the finite values of a metric by step; angles in degrees."""
    scale = math.degrees(1) if metric.endswith("angle") else 1.0
    return {row["step"]: scale * row[metric] for row in history if is_finite(row.get(metric))}


def _draw_curve(axes: Axes, k: int, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    if not len(steps):
        return
    axes.plot(steps, values.mean(0), marker="o" if len(steps) < 3 else "", markersize=3, **_style(k))
    if len(values) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=SERIES[k % len(SERIES)], alpha=0.15, linewidth=0)


def _style(k: int) -> dict[str, Any]:
    dashes = _DASHES[k // len(SERIES) % len(_DASHES)]
    return {"color": SERIES[k % len(SERIES)], "linestyle": dashes, "linewidth": 1.4}


def _format_axis(axis: Any, metric: str) -> None:
    """Label an axis of fractions in per cent."""
    if is_share(metric):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
