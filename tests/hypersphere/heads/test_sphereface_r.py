from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from head_cases import batch, cosines_of, create_head, entropy_of

from sfplus.hypersphere import SphereFaceR


@pytest.mark.parametrize("normalisation", ["hard", "soft", "none"])
@pytest.mark.parametrize(("version", "m"), [("v0", 1.5), ("v0", 4.0), ("v1", 1.7), ("v2", 1.4)])
def test_logits_and_loss_equal_the_formulas_of_the_paper(version: Any, m: float, normalisation: Any) -> None:
    head = create_head("sphereface-r", version=version, m=m, normalisation=normalisation, scale=20.0)
    x, labels = batch(25)
    length = x.norm(dim=1).numpy()
    scale = np.full(25, 20.0) if normalisation == "hard" else length
    expected = cosines_of(head, x)
    np.testing.assert_allclose(head.predict(x).detach().numpy(), scale[:, None] * expected, atol=1e-12)
    for i, y in enumerate(labels.tolist()):
        for j in range(5):
            theta = math.acos(expected[i, j])
            k = math.floor(m * theta / math.pi)
            if version == "v0" and j == y:
                expected[i, j] = (-1) ** k * math.cos(m * theta) - 2 * k
            elif version == "v1" and j == y:
                expected[i, j] = math.cos(min(m * theta, math.pi))
            elif version == "v2" and j != y:
                expected[i, j] = math.cos(theta / m)
    expected *= scale[:, None]
    np.testing.assert_allclose(head.logits(x, labels).detach().numpy(), expected, atol=1e-12)
    entropy = entropy_of(expected, labels)
    penalty = 0.01 * float(np.abs(length - 20).mean())
    loss = {"hard": 50 / 20 * entropy, "soft": 50 / 20 * entropy + penalty, "none": entropy}[normalisation]
    assert float(head.loss(x, labels).detach()) == pytest.approx(loss, rel=1e-12)


def test_margin_rises_in_steps() -> None:
    """As in OpenSphere, m is 1 plus 0.1 times the number of steps below the counter."""
    head = SphereFaceR(6, 5, m=1.3, normalisation="none", steps=[2, 3, 6])
    margins = []
    for _ in range(8):
        head.logits(torch.randn(2, 6), torch.tensor([0, 1]))
        margins.append(head.current_margin)
    np.testing.assert_allclose(margins, [1, 1, 1.1, 1.2, 1.2, 1.2, 1.3, 1.3])
    head.eval()(torch.randn(2, 6), torch.tensor([0, 1]))
    assert int(head.iteration) == 8 and "_steps" not in head.state_dict()
    assert SphereFaceR(6, 5, m=1.3).current_margin == 1.3
