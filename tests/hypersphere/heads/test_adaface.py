from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from head_cases import batch, cosines_of

from sfplus.hypersphere import HEADS


def test_logits_and_statistics_equal_the_formulas_of_the_paper() -> None:
    head = HEADS["adaface"](6, 5).double()
    mean, std = 20.0, 100.0
    torch.manual_seed(1)
    for _ in range(3):
        x, labels = batch(40)
        x[:20] = (
            0.01 * x[:20] + head.weight.detach()[labels[:20]] * (-1) ** torch.arange(20)[:, None]
        )  # theta near 0, pi
        x *= 10 ** torch.linspace(-5, 2, 40, dtype=torch.float64)[torch.randperm(40), None]
        logits = head.logits(x, labels).detach().numpy()
        length = np.clip(x.norm(dim=1).numpy(), 0.001, 100)
        mean, std = 0.01 * length.mean() + 0.99 * mean, 0.01 * length.std(ddof=1) + 0.99 * std
        expected = cosines_of(head, x)
        for i, y in enumerate(labels.tolist()):
            z = max(-1, min(1, 0.333 * (length[i] - mean) / (std + 1e-3)))
            theta = max(0, min(math.pi, math.acos(expected[i, y]) - 0.4 * z))
            expected[i, y] = math.cos(theta) - (0.4 + 0.4 * z)
        np.testing.assert_allclose(logits, 64 * expected, atol=1e-6)  # the buffers start in float32
        assert float(head.batch_mean) == pytest.approx(mean) and float(head.batch_std) == pytest.approx(std)
    head.logits(x[:1], labels[:1])
    head.eval().logits(x, labels)
    assert float(head.batch_mean) == pytest.approx(mean), "neither a single sample nor evaluation changes it"
