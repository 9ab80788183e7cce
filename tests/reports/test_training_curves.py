"""Figures of classifiers: what is drawn on the axes, and pictures that can be opened."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sfplus.reports import curves_plot as module
from sfplus.reports.curves_plot import curves_plot
from sfplus.reports.feature_plot import plane_plot

PANELS = {"loss": {"loss": "loss"}, "on the test set": {"accuracy": "accuracy"}, "energy": {"energy.conv": "conv_1"}}


def rows(count: int, start: float) -> list[dict[str, float]]:
    found = []
    for step in range(1, count + 1):
        row = {"step": step, "loss": start / step, "energy.conv": 0.5}
        found.append(row | ({"accuracy": step / count} if step % 2 == 0 else {}))
    return found


def test_curves_hold_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module, "to_png", lambda figure: figures.append(figure) or b"")
    curves_plot([*rows(10, 4.0), {"step": 11, "loss": float("nan")}], PANELS, {"energy": (0.4, "random")})
    loss, accuracy, energy = figures[0].axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[step, 4 / step] for step in range(1, 11)])
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[step, step / 10] for step in (2, 4, 6, 8, 10)])
    assert accuracy.yaxis.get_major_formatter()(0.5) == "50 %"
    assert [text.get_text() for text in energy.get_legend().get_texts()] == ["conv_1", "random"]


def test_long_histories_are_drawn_by_their_means(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module, "to_png", lambda figure: figures.append(figure) or b"")
    curves_plot(rows(600, 4.0), PANELS)
    np.testing.assert_allclose(figures[0].axes[0].lines[0].get_xydata()[0], [1.5, 3])  # of 4 and 2


@pytest.mark.parametrize("history", [[], [{"step": 1, "loss": float("nan")}], rows(1, 2.0)])
def test_short_histories(history: list[dict[str, float]]) -> None:
    picture = Image.open(io.BytesIO(curves_plot(history, PANELS)))
    assert picture.size[0] > 500


def test_a_plane_for_each_run() -> None:
    random = np.random.default_rng(0)
    run = {"features": random.normal(size=(50, 2)), "labels": np.arange(50) % 3, "classifiers": np.eye(3)[:, :2]}
    sizes = [
        Image.open(io.BytesIO(plane_plot({str(k): run for k in range(count)}, ["a", "b", "c"]))).size
        for count in (1, 3)
    ]
    assert sizes[1][0] > 2 * sizes[0][0] - 200 and sizes[0][1] == sizes[1][1]
