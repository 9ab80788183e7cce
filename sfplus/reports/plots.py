"""Plots of a report as SVG text (see `figures`): verification scores, classifiers and training history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.special import ndtri

from sfplus.errors import one_line
from sfplus.reports.figures import (
    INK,
    SERIES,
    STYLE,
    add_legend,
    colour,
    dashes,
    format_percent,
    is_finite,
    new_figure,
    plot_line,
    to_svg,
)
from sfplus.verification.curves import roc
from sfplus.verification.result import Result

if TYPE_CHECKING:
    from sfplus.hypersphere import Uniformity

_Floats = NDArray[np.float64]
_POINTS = 300  # points drawn of a long history
_DET_TICKS = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def roc_plot(results: Mapping[str, Result]) -> str:
    """Plot the ROC of each model: TAR against FAR, from the smallest FAR that the pairs can resolve.

    Args:
        results: result by name of the model.

    Returns:
        SVG text.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure("roc")
        smallest, lowest = 1.0, 1.0
        for k, result in enumerate(results.values()):
            first = 1 / int((~result.same).sum())
            far, tar, _ = roc(result.scores, result.same)
            last = np.append(np.flatnonzero(np.diff(far)), len(far) - 1)  # the top of each vertical step
            visible = last[far[last] >= first * 0.5]
            plot_line(axes, k, far[visible], tar[visible], drawstyle="steps-post")
            smallest, lowest = min(smallest, first), min(lowest, float(tar[visible][0]))
        _log_rates(axes, smallest)
        axes.set_ylim(math.floor(min(lowest, 0.95) * 20) / 20 - 0.002, 1.004)
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("true accept rate")
        add_legend(axes, list(results))
        return to_svg(figure)


def det_plot(results: Mapping[str, Result]) -> str:
    """Plot the DET curve of each model: false rejects against false accepts, both on a normal-deviate scale.

    Normally distributed scores give straight lines (Martin et al. 1997, The DET curve in assessment of detection task
    performance).

    Args:
        results: result by name of the model.

    Returns:
        SVG text.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure("det")
        low = 1.0
        for k, result in enumerate(results.values()):
            far, tar, _ = roc(result.scores, result.same)
            visible = (far > 0) & (far < 1) & (tar > 0) & (tar < 1)
            plot_line(axes, k, ndtri(far[visible]), ndtri(1 - tar[visible]), drawstyle="steps-post")
            low = min(low, 1 / max(int(result.same.sum()), int((~result.same).sum())))
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=(0, (1, 3)))
        limits = ndtri(max(low, 1e-6)) - 0.1, ndtri(0.6)
        ticks = [rate for rate in _DET_TICKS if low <= rate <= 0.6]
        for set_limits, axis in ((axes.set_xlim, axes.xaxis), (axes.set_ylim, axes.yaxis)):
            set_limits(*limits)
            axis.set_ticks(ndtri(ticks), [format_percent(rate) for rate in ticks])
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("false reject rate")
        add_legend(axes, list(results))
        return to_svg(figure)


def histogram_plot(result: Result, name: str = "histogram", k: int = 0) -> str:
    """Plot the score histograms of both kinds of pairs and the mean threshold of the folds.

    Args:
        result: the result of a model.
        name: id of the figure.
        k: number of the model, which decides the colour of its pairs of the same person.

    Returns:
        SVG text.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(name)
        edges = np.linspace(float(result.scores.min()), float(result.scores.max()) + 1e-9, 61)
        kinds = {"different people": ~result.same, "same person": result.same}
        for (label, members), shade in zip(kinds.items(), (INK, colour(k)), strict=True):
            counts, _ = np.histogram(result.scores[members], edges)
            axes.stairs(counts, edges, fill=True, color=shade, alpha=0.35, label=label)
            axes.stairs(counts, edges, color=shade, linewidth=1.2)
        threshold = float(result.threshold.mean())
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        left, right = axes.get_xlim()
        title_x = min(max((threshold - left) / (right - left), 0.12), 0.88)  # above the line, but inside the figure
        axes.set_title(f"threshold {threshold:.3f}", x=title_x, ha="center")
        axes.set_xlabel("score (cosine)")
        axes.set_ylabel("pairs")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        add_legend(axes, list(kinds), "best")
        return to_svg(figure)


def fold_plot(results: Mapping[str, Result]) -> str:
    """Plot the accuracy of every fold in one row per model, with the mean and its standard error.

    Args:
        results: result by name of the model.

    Returns:
        SVG text.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure("folds", height=0.7 + 0.62 * len(results))
        for k, (name, result) in enumerate(results.items()):
            shade = colour(k)
            accuracy = np.sort(result.accuracy)
            repeats = np.arange(len(accuracy)) - np.searchsorted(accuracy, accuracy)  # stack folds of equal accuracy
            stack = 0.07 * min(1, 6 / max(1, repeats.max()))  # within the row of the model
            axes.plot(accuracy, k + stack * repeats, "o", color=shade, alpha=0.45, markersize=6, markeredgewidth=0,
                      clip_on=False)  # fmt: skip
            axes.errorbar(result.mean, k, xerr=result.standard_error, fmt="|", color=shade, markersize=13,
                          markeredgewidth=2.2, capsize=3, clip_on=False)  # fmt: skip
            axes.annotate(shorten(one_line(name), 66), (0, k - 0.27), xycoords=("axes fraction", "data"), va="bottom",
                          color=shade)  # fmt: skip
        axes.set_yticks([])
        axes.set_ylim(len(results) - 0.45, -0.65)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(format_percent))
        axes.set_xlabel("accuracy of each fold")
        return to_svg(figure)


def decision_plot(same: NDArray[np.floating], different: NDArray[np.floating], score: float) -> str:
    """Plot the ROC of verification pairs with the point of a decision at `score`.

    Args:
        same: (S,) similarities of pairs of the same person.
        different: (N,) similarities of pairs of different people.
        score: similarity of the pair in question.

    Returns:
        SVG text.
    """
    labels = np.arange(len(same) + len(different)) < len(same)
    far, tar, _ = roc(np.concatenate([same, different]), labels)
    score_far, score_tar = float((different >= score).mean()), float((same >= score).mean())
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure("decision")
        left = 0.5 / len(different)  # a FAR of 0 is drawn at the left edge of the logarithmic axis
        plot_line(axes, 0, np.maximum(far, left), tar, drawstyle="steps-post")
        axes.plot(max(score_far, left), score_tar, "o", color=SERIES[1], markersize=8, clip_on=False, label="1")
        _log_rates(axes, left)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("pairs of different people that score at least as high")
        axes.set_ylabel("pairs of the same person that do")
        add_legend(axes, ["verification pairs", f"these photos, {score:.3f}"], "best")
        return to_svg(figure)


def angle_plot(classifiers: Mapping[str, Uniformity], order: Sequence[str] = ()) -> str:
    """Plot the histogram over classes of the angle to the nearest other class, for each classifier.

    Args:
        classifiers: statistics of the classifiers by name of the model.
        order: the names of all models, which decide the colours; by default those of the classifiers.

    Returns:
        SVG text.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure("angles")
        angles = [np.degrees(classifier.nearest.numpy()) for classifier in classifiers.values()]
        low, high = min(float(a.min()) for a in angles), max(float(a.max()) for a in angles)
        bins = min(max(8, round(2 * max(map(len, angles)) ** 0.5)), 60)
        edges = np.linspace(low, max(high, low + 1), bins + 1)
        for name, values in zip(classifiers, angles, strict=True):
            k = list(order or classifiers).index(name)
            counts, _ = np.histogram(values, edges)
            axes.stairs(counts, edges, fill=True, color=colour(k), alpha=0.2)
            axes.stairs(counts, edges, color=colour(k), linestyle=dashes(k), label=str(k))
        axes.set_xlabel("angle to the nearest other class, degrees")
        axes.set_ylabel("classes")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        add_legend(axes, list(classifiers))
        return to_svg(figure)


def history_plot(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Sequence[str] = ("loss", "accuracy", "energy", "teacher_cosine"),
    order: Sequence[str] = (),
    starts: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Plot training curves against the step, one plot for each metric that occurs in some history.

    Args:
        histories: rows by name of the run, with `step` and metrics; values that are not finite numbers are skipped.
        metrics: the keys to plot. Long histories are drawn as the means of 300 equal parts.
        order: the names of all models, which decide the colours; by default those of the histories.
        starts: the step at which the curve of a run starts: the last step of the model that it was fine-tuned from.

    Returns:
        SVG text by metric.
    """
    plots = {}
    for metric in metrics:
        curves = {name: _curve(rows, metric) for name, rows in histories.items()}
        curves = {name: curve for name, curve in curves.items() if len(curve[0])}
        if curves:
            moved = {name: (steps + (starts or {}).get(name, 0), values) for name, (steps, values) in curves.items()}
            plots[metric] = _metric_plot(metric, moved, list(order or histories))
    return plots


def _metric_plot(metric: str, curves: Mapping[str, tuple[_Floats, _Floats]], names: list[str]) -> str:
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(f"history-{metric}", 4.0, 2.9)
        for name, (steps, values) in curves.items():
            markers = {"marker": "o", "markersize": 4} if len(steps) < 3 else {}
            plot_line(axes, names.index(name), steps, values, **markers)
        axes.set_xlabel("step")
        axes.set_ylabel(one_line(metric).replace("_", " "))
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        add_legend(axes, list(curves))
        return to_svg(figure)


def _curve(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[_Floats, _Floats]:
    """Return the steps and values (N,) of a metric, N <= 300."""
    points = [(row.get("step"), row.get(metric)) for row in rows]
    table = np.array([point for point in points if all(map(is_finite, point))], float)
    parts = np.array_split(table.reshape(-1, 2), min(len(table), _POINTS) or 1)
    means = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def shorten(text: str, width: int) -> str:
    """Return a text cut to a number of characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _log_rates(axes: Axes, smallest: float) -> None:
    """Set up a logarithmic x axis from `smallest` to 1 and percentages on both axes."""
    axes.set_xscale("log")
    axes.set_xlim(smallest, 1)
    axes.xaxis.set_major_formatter(FuncFormatter(format_percent))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(format_percent))
