"""Plot of the hyperspherical energy and nearest-neighbour angles of the neurons in each layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sfplus.errors import one_line
from sfplus.hypersphere import Uniformity
from sfplus.reports.figures import INK, SERIES, to_png

_BINS = 60  # of the angles


def energy_plot(layers: Mapping[str, Uniformity], title: str) -> bytes:
    """Plot one row per layer: its excess energy, and the distribution of the angles to the nearest neighbour.

    Args:
        layers: statistics by name of the layer, in the order of the rows.
        title: heading of the figure.

    Returns:
        A PNG.
    """
    names = [one_line(name) for name in layers]
    figure = Figure(figsize=(11, 1.6 + 0.26 * len(names)), layout="constrained")
    figure.suptitle(one_line(title), fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2, 3])
    rows = np.arange(len(names))

    excess = np.array([layer.excess for layer in layers.values()])
    finite = np.isfinite(excess)
    left.axvspan(0, 1, color=SERIES[2], alpha=0.12, linewidth=0)
    left.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    left.hlines(rows[finite], 1, excess[finite], color=SERIES[0], linewidth=1.4)
    left.plot(excess[finite], rows[finite], "o", color=SERIES[0], markersize=5)
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(min(-0.05, *excess[finite], 0), max(1.5, *excess[finite] * 1.3, 0))
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 1000) if tick <= left.get_xlim()[1]]
    left.set_xticks(ticks, ["lower bound", "random", *map(str, ticks[2:])], fontsize=8)
    left.set_xticks([], minor=True)
    left.set_xlabel("excess energy: 0 at the lower bound, 1 at random directions")
    left.set_yticks(rows, names, fontsize=8)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.grid(axis="y", linewidth=0.4, color="#dddddd")
    left.set_axisbelow(True)

    angles = [np.degrees(layer.nearest.numpy()) for layer in layers.values()]
    top = max(95.0, *(float(a.max()) for a in angles))
    share = np.stack([np.histogram(a, _BINS, (0, top))[0] / len(a) for a in angles])
    share /= np.maximum(share.max(1, keepdims=True), 1e-9)
    right.imshow(share, aspect="auto", cmap="Blues", extent=(0, top, len(names) - 0.5, -0.5), interpolation="nearest")
    right.plot([a.min() for a in angles], rows, "|", color=SERIES[1], markersize=9, label="smallest")
    right.axvline(90, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    right.set_xlabel("angle to the nearest neighbour, degrees (darker: more neurons)")
    right.legend(loc="lower left", fontsize=8, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
