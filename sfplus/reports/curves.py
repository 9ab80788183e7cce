"""Figures of classifiers of pictures: training curves with the energies of the layers, features in the plane."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sfplus.errors import one_line
from sfplus.reports.plots import SERIES, to_png

Rows = Sequence[Mapping[str, Any]]
ENERGY = "energy."

_INK = "#444a50"
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "sfplus", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.5, "lines.linewidth": 1.4, "legend.frameon": False, "legend.fontsize": 8,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "text.parse_math": False,
}  # fmt: skip
_DOTS = 6000  # points drawn in a plane


def training_curves(runs: Mapping[str, Rows], suffix: str = "svg", title: str = "") -> bytes:
    """Loss, accuracy on the test set and energies against the step, side by side.

    Of one run every layer has a line; of several, each run has one, the mean of its hidden layers. Energies without
    their weights, as they stand in the history.

    Args:
        runs: rows of histories by name; a row holds `step`, `loss`, sometimes `accuracy` and `energy.<layer>`.
        suffix: `svg` or `png`.
        title: above all.
    """
    panels = {"training loss": _curves(runs, "loss"), "accuracy on the test set": _curves(runs, "accuracy")}
    energies = _energies(runs)
    if energies:
        panels["energy of each layer" if len(runs) == 1 else "mean energy of the hidden layers"] = energies
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.9 * len(panels), 3.1), layout="constrained")
        figure.suptitle(one_line(title), fontsize=10)
        for axes, (label, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            _panel(axes, label, curves)
        return _encoded(figure, suffix)


def _panel(axes: Axes, label: str, curves: Mapping[str, NDArray[np.float64]]) -> None:
    layers = label.startswith("energy of each")
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, max(len(curves), 1)))
    for k, points in enumerate(curves.values()):
        colour = shades[k] if layers else SERIES[k % len(SERIES)]
        style = "-" if k < len(SERIES) or layers else "--"
        alone: Any = {"marker": "o", "markersize": 3} if len(points) < 3 else {}
        axes.plot(points[:, 0], points[:, 1], style, color=colour, label=str(k), **alone)
    axes.set_xlabel("step")
    axes.set_title(label, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if label.startswith("accuracy"):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))
    if any(curves):  # a run without a name needs no legend
        for text, name in zip(axes.legend(loc="best", ncols=1 + (len(curves) > 6)).get_texts(), curves, strict=True):
            text.set_text(one_line(name))


def _curves(runs: Mapping[str, Rows], key: str) -> dict[str, NDArray[np.float64]]:
    return {name: _points(rows, lambda row: row.get(key)) for name, rows in runs.items()}


def _energies(runs: Mapping[str, Rows]) -> dict[str, NDArray[np.float64]]:
    """By layer where there is one run; else by run, the mean of all layers but the last."""
    layers = {name: [key for key in rows[-1] if key.startswith(ENERGY)] if rows else [] for name, rows in runs.items()}
    if len(runs) == 1:
        (rows,), (keys,) = runs.values(), layers.values()
        return {key.removeprefix(ENERGY): _curves({"": rows}, key)[""] for key in keys}
    found = {}
    for name, rows in runs.items():
        hidden = layers[name][:-1]
        if hidden:
            found[name] = _points(
                rows, lambda row, keys=hidden: float(np.mean([row.get(key, math.nan) for key in keys]))
            )
    return found


def _points(rows: Rows, value: Any) -> NDArray[np.float64]:
    pairs = [(row["step"], value(row)) for row in rows]
    return np.array([p for p in pairs if isinstance(p[1], int | float) and math.isfinite(p[1])], float).reshape(-1, 2)


def plane_plot(runs: Mapping[str, Mapping[str, Any]], classes: Sequence[str], title: str = "") -> bytes:
    """Features in the plane, a panel for each run: points by class, and the classifiers as arrows.

    Args:
        runs: by name: `features` (N, 2), `labels` (N,) and `classifiers` (C, 2), which are drawn at the length of the
            larger features. Of many features every n-th is drawn.
        classes: their names, by label.
        title: above all.

    Returns:
        A PNG.
    """
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.4 * len(runs) + 0.9, 3.5), layout="constrained")
        figure.suptitle(one_line(title), fontsize=10)
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
        return _encoded(figure, "png")


def _encoded(figure: Figure, suffix: str) -> bytes:
    if suffix == "png":
        figure.set_dpi(130)
        return to_png(figure)
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
