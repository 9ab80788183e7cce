"""A picture of how the neurons of each layer are spread."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sfplus.errors import one_line
from sfplus.hypersphere import Uniformity
from sfplus.reports.plots import to_png

_BINS = 60
_GREY = "#6b7076"


def energy_plot(spreads: Mapping[str, Uniformity], title: str) -> bytes:
    """A PNG with a row per layer: its energy between the least and that of random directions, its nearest angles.

    Args:
        spreads: of each layer, in the order of the rows.
        title: above all.
    """
    names = [one_line(name) for name in spreads]
    figure = Figure(figsize=(11, 1.6 + 0.26 * len(names)), layout="constrained")
    figure.suptitle(one_line(title), fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 3])
    rows = np.arange(len(names))

    excess = np.array([spread.excess for spread in spreads.values()])
    known = np.isfinite(excess)
    left.axvspan(0, 1, color="#009e73", alpha=0.12, linewidth=0)
    left.axvline(1, color=_GREY, linewidth=0.9, linestyle=(0, (4, 2)))
    left.hlines(rows[known], 1, excess[known], color="#0072b2", linewidth=1.4)
    left.plot(excess[known], rows[known], "o", color="#0072b2", markersize=5)
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(min(-0.05, *excess[known], 0), max(1.5, *excess[known] * 1.3, 0))
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 1000) if tick <= left.get_xlim()[1]]
    left.set_xticks(ticks, ["least", "random", *map(str, ticks[2:])], fontsize=8)
    left.set_xticks([], minor=True)
    left.set_xlabel("excess energy: 0 at the least, 1 at random directions")
    left.set_yticks(rows, names, fontsize=8)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.grid(axis="y", linewidth=0.4, color="#dddddd")
    left.set_axisbelow(True)

    angles = [np.degrees(spread.nearest.numpy()) for spread in spreads.values()]
    top = max(95.0, *(float(a.max()) for a in angles))
    share = np.stack([np.histogram(a, _BINS, (0, top))[0] / len(a) for a in angles])
    share /= np.maximum(share.max(1, keepdims=True), 1e-9)
    right.imshow(share, aspect="auto", cmap="Blues", extent=(0, top, len(names) - 0.5, -0.5), interpolation="nearest")
    right.plot([a.min() for a in angles], rows, "|", color="#d55e00", markersize=9, label="smallest")
    right.axvline(90, color=_GREY, linewidth=0.9, linestyle=(0, (4, 2)))
    right.set_xlabel("angle to the nearest neighbour, degrees (darker: more neurons)")
    right.legend(loc="lower left", fontsize=8, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
