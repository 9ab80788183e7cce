from __future__ import annotations

import io

import torch
from PIL import Image

from sfplus.hypersphere import measure_uniformity
from sfplus.reports.energy_plot import energy_plot


def test_plot_of_many_layers_of_which_some_have_no_lower_bound() -> None:
    torch.manual_seed(0)
    layers = {f"layer{i}": measure_uniformity(torch.randn(12, 3 if i % 2 else 30)) for i in range(70)}
    with Image.open(io.BytesIO(energy_plot(layers, "many"))) as image:
        assert 1500 < image.height < 3000
