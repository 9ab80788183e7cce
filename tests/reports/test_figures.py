from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from sfplus.reports.figures import (
    INK,
    SERIES,
    add_legend,
    format_percent,
    is_finite,
    new_figure,
    plot_line,
    to_png,
    to_svg,
)


def test_svg_prefixes_ids_and_uses_the_colours_of_the_page() -> None:
    figure, axes = new_figure("name")
    plot_line(axes, 7, np.arange(3.0), np.arange(3.0), marker="o")
    add_legend(axes, ["_hidden & <b>"], "best")
    svg = to_svg(figure)
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and svg.endswith("</svg>")
    assert 'id="name-' in svg and "_hidden &amp; &lt;b&gt;" in svg
    assert f"var(--series-2, {SERIES[1]})" in svg, "colours repeat after the sixth line"
    assert INK not in svg.replace(f"var(--ink-soft, {INK})", "")


def test_png_has_no_metadata() -> None:
    figure, _ = new_figure("name", width=2, height=1)
    with Image.open(io.BytesIO(to_png(figure))) as image:
        assert image.size == (200, 100) and "Software" not in image.info


@pytest.mark.parametrize(
    ("value", "finite"), [(1, True), (0.5, True), (math.nan, False), (math.inf, False), (None, False), ("1", False)]
)
def test_is_finite(value: object, finite: bool) -> None:
    assert is_finite(value) == finite


def test_percent_has_four_significant_digits() -> None:
    assert [format_percent(value) for value in (0.5, 0.00012346, 1)] == ["50 %", "0.01235 %", "100 %"]
