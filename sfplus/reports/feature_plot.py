"""A picture of features in the plane, by class, with the classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sfplus.errors import one_line
from sfplus.reports.plots import to_png

_INK = "#444a50"
_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "text.parse_math": False,
}  # fmt: skip
_DOTS = 6000  # points drawn in a plane


def plane_plot(runs: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> bytes:
    """Features in the plane, a panel for each run: points by class, and the classifiers as arrows.

    Args:
        runs: by name: `features` (N, 2), `labels` (N,) and `classifiers` (C, 2), which are drawn at the length of the
            larger features. Of many features every n-th is drawn.
        classes: their names, by label.

    Returns:
        A PNG.
    """
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * len(runs) + 0.9, 3.5), layout="constrained")
        for axes, (name, run) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
            features, labels, classifiers = (np.asarray(run[key]) for key in ("features", "labels", "classifiers"))
            every = -(-len(features) // _DOTS)
            axes.scatter(*features[::every].T, c=labels[::every] % 20, cmap=colours, s=3, linewidths=0, vmin=-0.5,
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
