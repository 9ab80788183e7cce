from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from head_cases import batch, cosines_of, create_head

from sfplus.hypersphere import SphereFace2


@pytest.mark.parametrize("margin", ["C", "A", "M"])
def test_cosines_rounded_beyond_1_give_finite_results(margin: Any) -> None:
    torch.manual_seed(0)
    head = SphereFace2(64, 200, margin=margin, t=2.5, gradient="exact")
    x = (-head.weight.detach()).requires_grad_()
    assert (F.normalize(x, dim=1) @ F.normalize(head.weight, dim=1).T).min() < -1
    loss = head.loss(x, torch.arange(200)) + head.predict(x).mean()
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(("margin", "m"), [("C", 0.4), ("A", 0.5), ("M", 1.7)])
def test_logits_and_loss_equal_the_formulas_of_the_paper(margin: Any, m: float) -> None:
    head = create_head("sphereface2", margin=margin)
    x, labels = batch(25)
    cosine, bias, total = cosines_of(head, x), float(head.bias.detach()), 0.0  # type: ignore[operator]
    expected = np.empty_like(cosine)

    def similarity(z: float) -> float:
        return 2 * ((z + 1) / 2) ** 3 - 1

    for i, y in enumerate(labels.tolist()):
        for j in range(5):
            is_target, z = j == y, cosine[i, j]
            if margin == "A" and is_target:
                z = math.cos(min(math.acos(z) + m, math.pi))
            if margin == "M" and is_target:
                z = math.cos(min(math.acos(z) * m, math.pi))
            g = similarity(z)
            if margin == "C":
                g += -m if is_target else m
            expected[i, j] = 40 * g + bias
            total += (0.7 if is_target else 0.3) * math.log1p(math.exp(expected[i, j] * (-1 if is_target else 1)))
    np.testing.assert_allclose(head.logits(x, labels).detach().numpy(), expected, atol=1e-11)
    assert float(head.loss(x, labels).detach()) == pytest.approx(10 / 40 * total / 25, rel=1e-10)
    np.testing.assert_allclose(head.predict(x).detach().numpy(), 40 * similarity(cosine) + bias, atol=1e-11)


@pytest.mark.parametrize("margin", ["C", "A", "M"])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_initial_bias_has_gradient_zero_at_right_angles(margin: Any, classes: int) -> None:
    head = SphereFace2(classes + 1, classes, margin=margin, scale=64.0).double()
    head.weight.data.copy_(torch.eye(classes, classes + 1))
    head.loss(torch.eye(classes + 1, dtype=torch.float64)[-1:], torch.tensor([0])).backward()
    assert head.bias.grad is not None
    largest = 10 / 64 * 0.7  # possible gradient of the true class
    assert abs(float(head.bias.grad)) < 1e-5 * largest
