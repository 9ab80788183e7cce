"""Plot of the training curves of one run, one panel for each group of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sfplus.errors import one_line
from sfplus.reports.figures import INK, is_finite, to_png
from sfplus.reports.sweep_table import is_share

_POINTS = 300  # drawn at most of each curve


def curves_plot(
    rows: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Mapping[str, str]],
    levels: Mapping[str, tuple[float, str]] | None = None,
) -> bytes:
    """Plot metrics against the step; long histories are drawn as the means of up to 300 parts.

    Args:
        rows: rows of the history, with `step` and metrics; values that are not finite numbers are skipped.
        panels: the metrics to plot and their display names, by title of the panel.
        levels: a horizontal line and its name, by title of the panel.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
    part = max(1, -(-len(rows) // _POINTS))
    for axes, (title, metrics) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (metric, name) in enumerate(metrics.items()):
            points = [(row["step"], row[metric]) for row in rows if is_finite(row.get(metric))]
            groups = [points[start : start + part] for start in range(0, len(points), part)]
            means = [[sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups]
            colour = colormaps["viridis"](0.9 * index / max(1, len(metrics) - 1))
            if means:
                markers: Any = {"marker": "o", "markersize": 3} if len(means) < 3 else {}
                axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.5, label=one_line(name), **markers)
        if levels and title in levels:
            level, name = levels[title]
            axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label=one_line(name))
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
