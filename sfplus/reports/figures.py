"""Matplotlib figures as SVG text that takes its colours from the surrounding page, and as PNG.

Colours are CSS variables with a fallback: `--ink-soft` (text and axes), `--rule` (grid) and `--series-1` to
`--series-6` (the colour-blind safe palette of Okabe and Ito), so the same SVG suits light and dark pages. The same data
and version of matplotlib give the same bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sfplus.errors import one_line

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_LARGEST = 1e100  # a curve whose values are larger overflows in matplotlib
INK, RULE = "#6b7076", "#c9c9c6"
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)), (0, (3, 3)))
_CHARACTERS, _LINE = 11.5, 0.19  # of a legend: characters per inch, and the height of a line in inches
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sfplus",
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.titlesize": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.parse_math": False,
}


def new_figure(name: str, width: float = 5.0, height: float = 3.2) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes.

    Args:
        name: the id of the figure, which prefixes all ids in its SVG.
        width: in inches.
        height: in inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_gid(name)
    return figure, figure.subplots()


def plot_line(axes: Axes, k: int, x: NDArray[np.float64], y: NDArray[np.float64], **style: Any) -> None:
    """Draw the k-th line, with its own colour and dashes."""
    axes.plot(x, y, color=colour(k), linestyle=dashes(k), label=str(k), **style)


def colour(k: int) -> str:
    """Return the colour of the k-th line."""
    return SERIES[k % len(SERIES)]


def dashes(k: int) -> Any:
    """Return the dashes of the k-th line: lines that share a colour differ in their dashes."""
    return DASHES[(k + k // len(SERIES)) % len(DASHES)]


def add_legend(axes: Axes, names: list[str], location: Any = None) -> None:
    """Add a legend with the names of the lines, in the order in which they were drawn.

    Args:
        axes: the axes with the lines.
        names: the names.
        location: as in matplotlib; None for a legend below the axes, for which the figure grows.
    """
    if location is None:
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        width, height = figure.get_size_inches()
        names = [textwrap.fill(one_line(name), round(_CHARACTERS * width), break_long_words=True) for name in names]
        lines = sum(name.count("\n") + 1 for name in names)
        figure.set_size_inches(width, height + _LINE * lines + 0.1)
        legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", borderpad=0)
    else:
        legend = axes.legend(loc=location)
    for text, name in zip(legend.get_texts(), names, strict=True):
        # not through `label`: matplotlib ignores labels with a leading underscore
        text.set_text(name if location is None else one_line(name))


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number of a size that can be drawn."""
    return isinstance(value, int | float) and abs(value) < _LARGEST


def format_percent(value: float, _: object = None) -> str:
    """Format a fraction in per cent, as a tick formatter."""
    return f"{100 * value:.4g} %"


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG without metadata."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG element without prologue or metadata, with unique ids and the colours of the page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    name = str(figure.get_gid())
    text = re.sub(r'(<[A-Za-z]+ (?:[a-z]+="[^"<>]*" )*id=")', rf"\g<1>{name}-", text)
    text = re.sub(r'((?:xlink:href="|url\()#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg xmlns="http://www.w3.org/2000/svg" '
                  r'xmlns:xlink="http://www.w3.org/1999/xlink" \1 role="img">', text, count=1)  # fmt: skip
    variables = {INK: "--ink-soft", RULE: "--rule"} | {c: f"--series-{i}" for i, c in enumerate(SERIES, 1)}
    for colour, variable in variables.items():
        text = text.replace(f": {colour}", f": var({variable}, {colour})")
    return text.strip()
