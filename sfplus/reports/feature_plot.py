"""Scatter plot of 2-D features by class, with the classifier weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sfplus.errors import one_line
from sfplus.reports.figures import to_png

_INK = "#444a50"
_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "text.parse_math": False,
}  # fmt: skip
_POINTS = 6000  # drawn at most in a panel


def feature_plot(runs: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> bytes:
    """Plot 2-D features coloured by class and the classifier weights as arrows, one panel for each run.

    Args:
        runs: `features` (N, 2), `labels` (N,) and `classifiers` (C, 2) by name of the run. The weights are scaled to
            the length of the larger features; of more than 6,000 features every n-th is drawn.
        classes: names of the classes, by label.

    Returns:
        A PNG.
    """
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * len(runs) + 0.9, 3.5), layout="constrained")
        for axes, (name, run) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
            features, labels, classifiers = (np.asarray(run[key]) for key in ("features", "labels", "classifiers"))
            step = -(-len(features) // _POINTS)
            axes.scatter(*features[::step].T, c=labels[::step] % 20, cmap=colours, s=3, linewidths=0, vmin=-0.5,
                         vmax=colours.N - 0.5, rasterized=True)  # fmt: skip
            reach = float(np.quantile(np.linalg.norm(features, axis=1), 0.98)) or 1.0
            arrows = classifiers / np.maximum(np.linalg.norm(classifiers, axis=1, keepdims=True), 1e-12) * reach
            for label, (x, y) in enumerate(arrows):
                axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": "#c00000", "lw": 1.1})
                axes.text(1.08 * x, 1.08 * y, one_line(classes[label]), color="#c00000", ha="center", va="center",
                          fontsize=8)  # fmt: skip
            side = 1.18 * reach
            axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal", title=one_line(name))
            axes.tick_params(labelsize=7)
        dots = [axes.scatter([], [], color=colours(k % 20), s=14) for k in range(len(classes))]
        figure.legend(dots, [one_line(name) for name in classes], loc="outside right center", fontsize=8)
        figure.set_dpi(130)
        return to_png(figure)
