"""A-Softmax (SphereFace): a classifier on angles with a multiplicative margin for the true class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def margin_cosine(cosine: Tensor, m: int) -> Tensor:
    """psi(theta) = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi): falls from 1 to 1 - 2m over [0, pi].

    Evaluated as a Chebyshev polynomial of the cosine with branch signs, as the Caffe layer does (SphereFace paper,
    equation 8; margin_inner_product_layer.cpp), so that no arc cosine spoils the gradient near 0 and pi. Where a
    branch sign is 0 the polynomial's slope is 0 too: value and derivative are right at every point of [-1, 1].

    Args:
        cosine: cos(theta) in [-1, 1], any shape.
        m: the margin, 1 to 4.
    """
    if m == 1:
        return cosine
    square, sign = cosine.square(), cosine.detach().sign()
    if m == 2:
        return 2 * sign * square - 1
    if m == 3:
        branch = (square.detach() - 0.25).sign()
        return branch * (4 * square - 3) * cosine + sign * (1 + branch) - 2
    if m == 4:
        branch = sign * (2 * square.detach() - 1).sign()
        return branch * (8 * square * (square - 1) + 1) + 2 * sign + branch - 3
    raise ValueError(f"the margin m of A-Softmax is 1, 2, 3 or 4, not {m}")


class ASoftmax(nn.Module):
    """The last layer of SphereFace (`MarginInnerProduct`), with its exact gradient.

    logit_j = ||x|| cos(theta_j) for the other classes; (lambda ||x|| cos + ||x|| psi) / (1 + lambda) for the true
    class. lambda = max(lambda_min, base (1 + gamma iteration)^-power) anneals from plain cosine logits to the
    margin; `iteration` counts the forward passes in training mode and is part of the state, so that a resumed run
    goes on where it was. In training mode the rows of `weight` are first brought to unit norm in place, as Caffe
    does, and then normalised again for the gradient. m = 1 has no margin and no lambda.

    Under autocast the computation stays in the dtype of `weight`, which is float32 unless it was changed.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        m: margin, 1 to 4.
        base: lambda before the decay. Source of the defaults: sphereface_model.prototxt.
        gamma: speed of the decay.
        power: exponent of the decay.
        lambda_min: where the decay stops.
        iteration: start of the counter.
    """

    weight: nn.Parameter
    iteration: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        m: int = 4,
        base: float = 1000.0,
        gamma: float = 0.12,
        power: float = 1.0,
        lambda_min: float = 5.0,
        iteration: int = 0,
    ) -> None:
        super().__init__()
        if m not in (1, 2, 3, 4):
            raise ValueError(f"the margin m of A-Softmax is 1, 2, 3 or 4, not {m}")
        self.m, self.base, self.gamma, self.power, self.lambda_min = m, base, gamma, power, lambda_min
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.register_buffer("iteration", torch.tensor(iteration, dtype=torch.int64))
        bound = math.sqrt(3 / features)
        nn.init.uniform_(self.weight, -bound, bound)

    def extra_repr(self) -> str:
        """What `print(head)` shows."""
        classes, features = self.weight.shape
        return f"{features}, {classes}, m={self.m}, lambda={self.current_lambda:.4g}"

    @property
    def current_lambda(self) -> float:
        """lambda of the last training forward (of the counter as it stands); reading it makes a GPU wait."""
        return float(self._lambda())

    def _lambda(self) -> Tensor:
        decay = (1 + self.gamma * self.iteration.double()) ** -self.power
        return (self.base * decay).clamp_min(self.lambda_min)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits with the margin, for cross-entropy.

        Args:
            features: (M, d), not normalised.
            labels: (M,) int64.

        Returns:
            (M, C), the dtype of `weight`.
        """
        if self.training:
            with torch.no_grad():
                self.iteration += 1
                self.weight.copy_(F.normalize(self.weight, dim=1))
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.weight.dtype)
            # The clone is what autograd keeps: a second forward may normalise the weight before this one's backward.
            logits = features @ F.normalize(self.weight.clone(), dim=1).T
            if self.m == 1:
                return logits
            own = torch.arange(len(labels), device=labels.device), labels
            target, length = logits[own], features.norm(dim=1)
            cosine = (target / length.clamp_min(1e-12)).clamp(-1, 1)
            relax = self._lambda().to(logits.dtype)
            target = (relax * target + length * margin_cosine(cosine, self.m)) / (1 + relax)
            logits[own] = target
            return logits

    def predict(self, features: Tensor) -> Tensor:
        """Logits without margin, ||x|| cos(theta): (M, d) -> (M, C); their largest is the predicted class."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.weight.dtype)
            return features @ F.normalize(self.weight, dim=1).T
