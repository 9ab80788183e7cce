"""Plots of a report, as SVG text that takes its colours from the page around it.

Colours are CSS variables with a fallback: `--ink-soft` (text and axes), `--rule` (grid) and `--series-1` to
`--series-6` (the colours of Okabe and Ito, told apart by colour-blind readers), so one picture suits light and dark
pages. The same data and matplotlib give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.special import ndtri

from sfplus.errors import one_line
from sfplus.verification.curves import roc
from sfplus.verification.result import Result

if TYPE_CHECKING:
    from sfplus.hypersphere import Uniformity

_Floats = NDArray[np.float64]
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_INK, _RULE = "#6b7076", "#c9c9c6"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)), (0, (3, 3)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sfplus",
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.titlesize": 9,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "text.parse_math": False,
}
_BINS = 300  # points drawn of a long history
_RATES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)  # ticks of a DET plot


def roc_plot(results: Mapping[str, Result]) -> str:
    """ROC of each model: TAR against FAR, which starts where the number of different pairs lets it be measured."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("roc")
        smallest, lowest = 1.0, 1.0
        for k, result in enumerate(results.values()):
            first = 1 / int((~result.same).sum())
            far, tar, _ = roc(result.scores, result.same)
            last = np.append(np.flatnonzero(np.diff(far)), len(far) - 1)  # the top of each vertical step
            shown = far[last] >= first * 0.5
            _line(axes, k, far[last][shown], tar[last][shown], drawstyle="steps-post")
            smallest, lowest = min(smallest, first), min(lowest, float(tar[last][shown][0]))
        axes.set_xscale("log")
        axes.set_xlim(smallest, 1)
        axes.set_ylim(math.floor(min(lowest, 0.95) * 20) / 20 - 0.002, 1.004)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel("false accept rate (different people taken for one)")
        axes.set_ylabel("true accept rate")
        _legend(axes, list(results), "lower right")
        return _svg(figure)


def det_plot(results: Mapping[str, Result]) -> str:
    """DET of each model: false rejects against false accepts, both on the scale of normal deviates.

    Scores of normal distributions give straight lines (Martin et al. 1997, The DET curve in assessment of detection
    task performance).
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("det")
        low = 1.0
        for k, result in enumerate(results.values()):
            far, tar, _ = roc(result.scores, result.same)
            shown = (far > 0) & (far < 1) & (tar > 0) & (tar < 1)
            _line(axes, k, ndtri(far[shown]), ndtri(1 - tar[shown]), drawstyle="steps-post")
            low = min(low, 1 / max(int(result.same.sum()), int((~result.same).sum())))
        axes.axline((0, 0), slope=1, color=_INK, linewidth=0.8, linestyle=(0, (1, 3)))
        limits = ndtri(max(low, 1e-6)) - 0.1, ndtri(0.6)
        ticks = [rate for rate in _RATES if low <= rate <= 0.6]
        for set_limits, axis in ((axes.set_xlim, axes.xaxis), (axes.set_ylim, axes.yaxis)):
            set_limits(*limits)
            axis.set_ticks(ndtri(ticks), [_percent(rate) for rate in ticks])
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("false reject rate")
        _legend(axes, list(results), "best")
        return _svg(figure)


def histogram_plot(result: Result, name: str = "histogram") -> str:
    """Scores of pairs of one person and of two, and the mean threshold of the folds; `name` is the figure's id."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(name)
        edges = np.linspace(float(result.scores.min()), float(result.scores.max()) + 1e-9, 61)
        kinds = {"two people": ~result.same, "one person": result.same}
        for (label, chosen), k in zip(kinds.items(), (1, 0), strict=True):
            counts, _ = np.histogram(result.scores[chosen], edges)
            axes.stairs(counts, edges, fill=True, color=SERIES[k], alpha=0.35, label=label)
            axes.stairs(counts, edges, color=SERIES[k], linewidth=1.2)
        threshold = float(result.threshold.mean())
        axes.axvline(threshold, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_title(f"threshold {threshold:.3f}", x=_share(threshold, axes.get_xlim()), ha="center")
        axes.set_xlabel("score (cosine)")
        axes.set_ylabel("pairs")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(axes, list(kinds), "best")
        return _svg(figure)


def fold_plot(results: Mapping[str, Result]) -> str:
    """Accuracy of every fold, a row for each model, with the mean and its standard error."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("folds", height=0.9 + 0.42 * len(results))
        for k, result in enumerate(results.values()):
            colour = SERIES[k % len(SERIES)]
            accuracy = np.sort(result.accuracy)
            equal = np.arange(len(accuracy)) - np.searchsorted(accuracy, accuracy)  # folds alike fan out downwards
            axes.plot(accuracy, k + 0.07 * equal, "o", color=colour, alpha=0.45, markersize=6, markeredgewidth=0)
            axes.errorbar(result.mean, k, xerr=result.standard_error, fmt="|", color=colour, markersize=15,
                          markeredgewidth=2.2, capsize=3)  # fmt: skip
        axes.set_yticks(range(len(results)), [one_line(name) for name in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel("accuracy of each fold")
        return _svg(figure)


def standing_plot(same: NDArray[np.floating], different: NDArray[np.floating], score: float) -> str:
    """The ROC of similarities, and where on it a decision at `score` stands.

    Args:
        same: (S,) similarities of pairs of one person.
        different: (N,) those of pairs of two people.
        score: of the pair in question.
    """
    labels = np.arange(len(same) + len(different)) < len(same)
    far, tar, _ = roc(np.concatenate([same, different]), labels)
    here = float((different >= score).mean()), float((same >= score).mean())
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("standing")
        least = 1 / len(different)
        _line(axes, 0, np.maximum(far, least / 2), tar, drawstyle="steps-post")
        axes.plot(max(here[0], least / 2), here[1], "o", color=SERIES[1], markersize=8, clip_on=False, label="1")
        axes.set_xscale("log")
        axes.set_xlim(least / 2, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel("pairs of two people that score as high, or higher")
        axes.set_ylabel("pairs of one person that do")
        _legend(axes, ["verification pairs", f"these photos, {score:.3f}"], "best")
        return _svg(figure)


def angle_plot(spreads: Mapping[str, Uniformity]) -> str:
    """How many classes of each classifier have their nearest neighbour at which angle."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("angles")
        angles = [np.degrees(spread.nearest.numpy()) for spread in spreads.values()]
        low, high = min(float(a.min()) for a in angles), max(float(a.max()) for a in angles)
        bins = min(max(8, round(2 * max(map(len, angles)) ** 0.5)), 60)
        edges = np.linspace(low, max(high, low + 1), bins + 1)
        for k, values in enumerate(angles):
            counts, _ = np.histogram(values, edges)
            axes.stairs(counts, edges, fill=True, color=SERIES[k % len(SERIES)], alpha=0.2)
            axes.stairs(counts, edges, color=SERIES[k % len(SERIES)], linestyle=_DASHES[k % len(_DASHES)], label=str(k))
        axes.set_xlabel("angle to the nearest other class, degrees")
        axes.set_ylabel("classes")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(axes, list(spreads), "best")
        return _svg(figure)


def history_plot(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str] = ("loss", "accuracy", "energy")
) -> dict[str, str]:
    """Training curves by metric, of each metric that some row holds, against `step`.

    Args:
        histories: rows by name of the run; a row holds `step` and some metrics; what is no finite number is left out.
        metrics: the keys to draw. Of a long run, means of up to 300 equal parts are drawn.
    """
    plots = {}
    for metric in metrics:
        runs = {name: _curve(rows, metric) for name, rows in histories.items()}
        runs = {name: curve for name, curve in runs.items() if len(curve[0])}
        if runs:
            plots[metric] = _history(metric, runs, list(histories))
    return plots


def _history(metric: str, runs: Mapping[str, tuple[_Floats, _Floats]], names: list[str]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(f"history-{metric}", 4.0, 2.9)
        for name, (steps, values) in runs.items():
            alone = {"marker": "o", "markersize": 4} if len(steps) < 3 else {}
            _line(axes, names.index(name), steps, values, **alone)
        axes.set_xlabel("step")
        axes.set_ylabel(one_line(metric).replace("_", " "))
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        _legend(axes, list(runs), "best")
        return _svg(figure)


def _curve(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[_Floats, _Floats]:
    points = [(row.get("step"), row.get(metric)) for row in rows]
    table = np.array([p for p in points if all(isinstance(v, int | float) and math.isfinite(v) for v in p)], float)
    parts = np.array_split(table.reshape(-1, 2), min(len(table), _BINS) or 1)
    means = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _figure(name: str, width: float = 5.0, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_gid(name)
    return figure, figure.subplots()


def _line(axes: Axes, k: int, x: _Floats, y: _Floats, **style: Any) -> None:
    axes.plot(x, y, color=SERIES[k % len(SERIES)], linestyle=_DASHES[k % len(_DASHES)], label=str(k), **style)


def _legend(axes: Axes, names: list[str], where: Any) -> None:
    """Name the curves; only afterwards, as matplotlib gives a meaning to a leading underscore."""
    for text, name in zip(axes.legend(loc=where).get_texts(), names, strict=True):
        text.set_text(one_line(name))


def _share(value: float, limits: tuple[float, float]) -> float:
    """Where a value lies between two limits, kept off the ends."""
    return min(max((value - limits[0]) / (limits[1] - limits[0]), 0.12), 0.88)


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.4g} %"


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG that is a function of what is drawn."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    """The figure as an SVG element: no prologue, no metadata, ids of its own, colours of the page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    name = str(figure.get_gid())
    text = re.sub(r'(<[A-Za-z]+ (?:[a-z]+="[^"<>]*" )*id=")', rf"\g<1>{name}-", text)
    text = re.sub(r'((?:xlink:href="|url\()#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg xmlns="http://www.w3.org/2000/svg" '
                  r'xmlns:xlink="http://www.w3.org/1999/xlink" \1 role="img">', text, count=1)  # fmt: skip
    variables = {_INK: "--ink-soft", _RULE: "--rule"} | {c: f"--series-{i}" for i, c in enumerate(SERIES, 1)}
    for colour, variable in variables.items():
        text = text.replace(f": {colour}", f": var({variable}, {colour})")
    return text.strip()
