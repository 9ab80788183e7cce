from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfplus.reports.feature_plot import feature_plot


def test_each_run_has_a_panel() -> None:
    random = np.random.default_rng(0)
    run = {"features": random.normal(size=(50, 2)), "labels": np.arange(50) % 3, "classifiers": np.eye(3)[:, :2]}
    sizes = [
        Image.open(io.BytesIO(feature_plot({str(k): run for k in range(count)}, ["a", "b", "c"]))).size
        for count in (1, 3)
    ]
    assert sizes[1][0] > 2 * sizes[0][0] - 200 and sizes[0][1] == sizes[1][1]
