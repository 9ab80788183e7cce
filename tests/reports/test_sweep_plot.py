from __future__ import annotations

import io

from PIL import Image

from sfplus.reports.sweep_plot import sweep_curves, sweep_plot
from sfplus.reports.sweep_table import SweepRow, SweepTable


def row(label: str, accuracy: list[float]) -> SweepRow:
    history = [{"step": step, "loss": 1 / step, "accuracy": 0.5} for step in (1, 2, 3)]
    seeds = list(range(len(accuracy)))
    return SweepRow(label, {}, seeds, {"accuracy": accuracy}, histories=[history] * len(seeds))


def test_plots_grow_with_the_rows_and_accept_odd_names() -> None:
    published = [{"name": "released", "metric": "accuracy", "value": 0.99, "source": "paper"}]
    sweep = SweepTable("T", rows=[row("control", [0.5, 0.52]), row("m|h*e", [0.6, 0.64])], published=published)
    small = Image.open(io.BytesIO(sweep_plot(sweep)))
    sweep.rows += [row(f"_$x_{i}$", [0.5]) for i in range(20)]
    large = Image.open(io.BytesIO(sweep_plot(sweep)))
    assert large.height > small.height + 20 * 40 and large.width == small.width
    curves = sweep_curves(sweep)
    assert curves and Image.open(io.BytesIO(curves)).width > 1000
    for entry in sweep.rows:
        entry.histories = []
    assert sweep_curves(sweep) is None
