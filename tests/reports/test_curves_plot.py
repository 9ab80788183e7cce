from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sfplus.reports import curves_plot as module
from sfplus.reports.curves_plot import curves_plot

PANELS = {"loss": {"loss": "loss"}, "on the test set": {"accuracy": "accuracy"}, "energy": {"energy.conv": "conv_1"}}


def rows(count: int, start: float) -> list[dict[str, float]]:
    """Return a history in which every second row has an accuracy."""
    losses = [{"step": step, "loss": start / step, "energy.conv": 0.5} for step in range(1, count + 1)]
    return [row | ({"accuracy": row["step"] / count} if row["step"] % 2 == 0 else {}) for row in losses]


def test_curves_and_levels_follow_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module, "to_png", lambda figure: figures.append(figure) or b"")
    curves_plot([*rows(10, 4.0), {"step": 11, "loss": float("nan")}], PANELS, {"energy": (0.4, "random")})
    loss, accuracy, energy = figures[0].axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[step, 4 / step] for step in range(1, 11)])
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[step, step / 10] for step in (2, 4, 6, 8, 10)])
    assert accuracy.yaxis.get_major_formatter()(0.5) == "50 %"
    assert [text.get_text() for text in energy.get_legend().get_texts()] == ["conv_1", "random"]


def test_long_histories_are_drawn_as_means(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module, "to_png", lambda figure: figures.append(figure) or b"")
    curves_plot(rows(600, 4.0), PANELS)
    np.testing.assert_allclose(figures[0].axes[0].lines[0].get_xydata()[0], [1.5, 3])  # means of two rows


@pytest.mark.parametrize("history", [[], [{"step": 1, "loss": float("nan")}], rows(1, 2.0)])
def test_short_and_empty_histories_can_be_plotted(history: list[dict[str, float]]) -> None:
    image = Image.open(io.BytesIO(curves_plot(history, PANELS)))
    assert image.size[0] > 500
