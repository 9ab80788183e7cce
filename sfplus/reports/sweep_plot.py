"""Pictures of a sweep: each configuration's figure with its spread, and the training curves."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sfplus.errors import one_line
from sfplus.reports.plots import SERIES
from sfplus.reports.sweep_table import Row, Sweep, is_share, number, spread, title_of

_GREY, _PUBLISHED = "#6b7076", "#d55e00"
_DASHES = ("-", "--", ":", "-.")
_TITLES = {
    "accuracy": "accuracy, %", "loss": "training loss", "energy": "energy",
    "spread/head/min_angle": "smallest angle between classes, degrees",
}  # fmt: skip
_CURVES = (*_TITLES, "generator_loss", "discriminator_loss")
_PANELS, _LINES, _POINTS = 3, 12, 200  # drawn at most


def sweep_plot(sweep: Sweep) -> bytes:
    """A PNG with a row per configuration: a dot per seed, their mean and standard deviation, published figures."""
    rows = [row for row in sweep.rows if row.values.get(sweep.metric)]
    published = [entry for entry in sweep.published if entry["metric"] == sweep.metric]
    count = len(rows) + len(published)
    figure = Figure(figsize=(8, 1.5 + 0.34 * count), dpi=130, layout="constrained")
    figure.suptitle(one_line(sweep.title), fontsize=11)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        values = row.values[sweep.metric]
        mean, error = float(np.mean(values)), spread(values)
        if len(values) > 1:
            axes.plot(values, [place + 0.22] * len(values), "o", color=SERIES[0], alpha=0.5, markersize=4,
                      markeredgewidth=0)  # fmt: skip
        axes.errorbar(mean, place, xerr=None if math.isnan(error) else error, fmt="|", color=SERIES[0], markersize=13,
                      markeredgewidth=2, elinewidth=1.4, capsize=3)  # fmt: skip
        text = number(sweep.metric, mean) + ("" if math.isnan(error) else f" ± {number(sweep.metric, error)}")
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    low, high = _limits(rows, sweep.metric, [entry["value"] for entry in published])
    axes.set_xlim(low, high)
    for place, entry in enumerate(published, len(rows)):
        value = entry["value"]
        if low <= value <= high:
            axes.axvline(value, color=_PUBLISHED, linewidth=1, linestyle=(0, (4, 2)))
            axes.plot(value, place, "D", color=_PUBLISHED, markersize=5)
        else:  # further off than this picture reaches
            axes.plot(min(max(value, low), high), place, ">" if value > high else "<", color=_PUBLISHED, clip_on=False)
        text = number(sweep.metric, value)
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, va="center",
                      color=_PUBLISHED)  # fmt: skip
    names = [row.label for row in rows] + [f"published: {entry['name']}" for entry in published]
    axes.set_yticks(range(count), [one_line(name) for name in names], fontsize=9, parse_math=False)
    for label in axes.get_yticklabels()[len(rows) :]:
        label.set_color(_PUBLISHED)
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.4, color="#dddddd")
    axes.spines[["top", "right", "left"]].set_visible(False)
    _share_axis(axes.xaxis, sweep.metric)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    marks = "dots: each seed; bar: standard deviation over seeds" if any(len(row.seeds) > 1 for row in rows) else ""
    axes.set_xlabel("\n".join(filter(None, [title_of(sweep.metric), marks])), fontsize=9)
    return _png(figure)


def sweep_curves(sweep: Sweep) -> bytes | None:
    """A PNG with the training curves of each configuration: the mean over its seeds and their range; None without any.

    Args:
        sweep: of it up to 12 configurations are drawn, and up to three of the metrics in their histories.
    """
    rows = [row for row in sweep.rows if any(row.histories)][:_LINES]
    metrics = [metric for metric in _CURVES if any(len(_curve(row, metric)[0]) for row in rows)][:_PANELS]
    if not metrics:
        return None
    figure = Figure(figsize=(4.2 * len(metrics), 3.4 + 0.2 * math.ceil(len(rows) / 3)), dpi=130, layout="constrained")
    figure.suptitle(one_line(sweep.title), fontsize=11)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for k, row in enumerate(rows):
            _draw(axes, k, *_curve(row, metric))
        axes.set_title(_TITLES.get(metric) or title_of(metric), fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        _share_axis(axes.yaxis, metric)
        axes.tick_params(labelsize=8)
        axes.grid(linewidth=0.4, color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
    handles = [Axes.plot(axes, [], [], **_style(k))[0] for k in range(len(rows))]
    legend = figure.legend(handles, [str(k) for k in range(len(rows))], loc="outside lower center", ncols=3,
                           fontsize=8, frameon=False)  # fmt: skip
    for text, row in zip(legend.get_texts(), rows, strict=True):  # afterwards, as "_" at the start has a meaning
        text.set_text(one_line(row.label))
        text.set_parse_math(False)
    return _png(figure)


def _limits(rows: Sequence[Row], metric: str, published: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest of our figures, and to those published figures that do not dwarf their spread."""
    ours = [value for row in rows for value in row.values[metric]]
    bars = [(float(np.mean(row.values[metric])), spread(row.values[metric])) for row in rows if len(row.seeds) > 1]
    ours += [end for mean, error in bars for end in (mean - error, mean + error)]
    low, high = min(ours), max(ours)
    reach = max(2 * (high - low), 0.002 * abs(high), 1e-6)
    near = [value for value in published if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = max(0.08 * (high - low), 0.1 * reach)
    return low - margin, high + margin


def _curve(row: Row, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps (S,) that all seeds have, and the values (seeds, S)."""
    found = [_points(history, metric) for history in row.histories if history]
    steps = sorted(set.intersection(*(set(points) for points in found))) if found else []
    if len(steps) > _POINTS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, _POINTS).astype(int)]
    return np.array(steps, float), np.array([[points[step] for step in steps] for points in found], float)


def _points(history: Sequence[dict[str, Any]], metric: str) -> dict[int, float]:
    values = {row["step"]: row.get(metric) for row in history}
    scale = math.degrees(1) if metric.endswith("angle") else 1.0
    return {step: scale * v for step, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def _draw(axes: Axes, k: int, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    if not len(steps):
        return
    axes.plot(steps, values.mean(0), marker="o" if len(steps) < 3 else "", markersize=3, **_style(k))
    if len(values) > 1:
        axes.fill_between(steps, values.min(0), values.max(0), color=SERIES[k % len(SERIES)], alpha=0.15, linewidth=0)


def _style(k: int) -> dict[str, Any]:
    dashes = _DASHES[k // len(SERIES) % len(_DASHES)]
    return {"color": SERIES[k % len(SERIES)], "linestyle": dashes, "linewidth": 1.4}


def _share_axis(axis: Any, metric: str) -> None:
    if is_share(metric):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
