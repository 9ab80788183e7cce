"""A picture of the curves of one run, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sfplus.errors import one_line
from sfplus.reports.plots import to_png
from sfplus.reports.sweep_table import is_share

_GREY = "#6b7076"


def curves_plot(
    rows: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Mapping[str, str]],
    levels: Mapping[str, tuple[float, str]] | None = None,
) -> bytes:
    """A PNG with a panel for each group of metrics, against `step`; of long histories the mean of up to 300 parts.

    Args:
        rows: of the history, with `step` and metrics; what is no finite number is left out.
        panels: by title, the metrics to draw and what to call them.
        levels: by title, a horizontal line and its name.
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
    part = max(1, -(-len(rows) // 300))
    for axes, (title, metrics) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (metric, name) in enumerate(metrics.items()):
            points = [(row["step"], row[metric]) for row in rows if _is_number(row.get(metric))]
            groups = [points[start : start + part] for start in range(0, len(points), part)]
            means = [[sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups]
            colour = colormaps["viridis"](0.9 * index / max(1, len(metrics) - 1))
            if means:
                dots: Any = {"marker": "o", "markersize": 3} if len(means) < 3 else {}
                axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.5, label=one_line(name), **dots)
        if levels and title in levels:
            level, name = levels[title]
            axes.axhline(level, color=_GREY, linewidth=0.9, linestyle=(0, (4, 2)), label=one_line(name))
        axes.set_title(one_line(title), fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if all(map(is_share, metrics)):
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(labelsize=8)
        axes.grid(linewidth=0.4, color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(fontsize=7, frameon=False, ncols=1 + (len(metrics) > 4))
    return to_png(figure)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
