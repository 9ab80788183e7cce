"""SphereFace2, by the authors of SphereFace (OpenSphere)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.heads.margins import add_to_target, angle, target_logits, unit_features


class SphereFace2(Head):
    """A binary classifier for each person.

    "SphereFace2: Binary Classification is All You Need for Deep Face Recognition". logit_j = r g_j + b with the
    similarity g(z) = 2 ((z + 1) / 2)^t - 1. Margin C: g_y = g(cos(theta_y)) - m, and g(cos(theta_j)) + m for the other
    classes; A: g_y = g(cos(min(theta_y + m, pi))); M: g_y = g(cos(min(m theta_y, pi))). The loss is loss_weight / r
    times the mean over samples of alpha log(1 + e^-logit_y) + (1 - alpha) sum_{j != y} log(1 + e^logit_j). The
    parameter b starts where the positive and the negatives pull at it with equal force while all features are at
    right angles to all classifiers.

    Args:
        features: Size d of a feature.
        classes: Number C of people, at least 2.
        margin: Type of the margin, on the cosine (C), added to the angle (A) or a factor of the angle (M)
            (defaults: OpenSphere, config/papers/SphereFace2).
        m: Margin; by default 0.4 for C, 0.5 for A (radians) and 1.7 for M.
        alpha: Weight of the true class (lambda in the paper, equation 5).
        scale: Factor r of the similarity.
        t: Exponent of the similarity.
        loss_weight: Factor of the loss.
        gradient: detached: as published, and as in `SphereFaceR`.

    Raises:
        ValueError: If there are fewer than two classes, or an option is out of bounds.
    """

    name = "sphereface2"
    limits = "m >= 0, alpha > 0, alpha < 1, scale > 0, t >= 1, loss_weight > 0"
    repr_attributes = ("margin", "m", "alpha", "scale", "t", "gradient")
    additive_loss = True

    def __init__(
        self,
        features: int,
        classes: int,
        margin: Literal["C", "A", "M"] = "C",
        m: float | None = None,
        alpha: float = 0.7,
        scale: float = 40.0,
        t: float = 3.0,
        loss_weight: float = 10.0,
        gradient: Literal["detached", "exact"] = "detached",
    ) -> None:
        super().__init__(features, classes)
        if classes < 2:
            raise ValueError(f"SphereFace2 needs at least 2 classes, not {classes}")
        self.check_options(margin=margin, m=m, alpha=alpha, scale=scale, t=t, loss_weight=loss_weight)
        self.check_options(gradient=gradient)
        self.margin, self.alpha, self.scale, self.t, self.gradient = margin, alpha, scale, t, gradient
        self.m = {"C": 0.4, "A": 0.5, "M": 1.7}[margin] if m is None else m
        self.loss_weight = loss_weight
        self.bias = nn.Parameter(torch.tensor([self._initial_bias()]))

    def _initial_bias(self) -> float:
        """Return the b with alpha sigmoid(-r g_y - b) = (1 - alpha) (C - 1) sigmoid(r g_j + b) at right angles.

        It is the root of a quadratic equation in e^b.
        """
        right_angles = torch.zeros(1, 2, dtype=torch.float64)
        positive, negative = map(float, self.scale * self._similarity(right_angles, torch.tensor([0]))[0])
        z = self.alpha / ((1 - self.alpha) * (len(self.weight) - 1))
        root = math.sqrt((1 - z) ** 2 + 4 * z * math.exp(positive - negative))
        if z < 1:
            return math.log(2 * z) - negative - math.log(1 - z + root)
        return math.log((z - 1 + root) / 2) - positive  # the same without a difference of nearly equal numbers

    def entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted binary logistic loss of the logits with margin (M, C)."""
        truth = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
        weight = 1 - self.alpha + (2 * self.alpha - 1) * truth
        total = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
        return self.loss_weight / self.scale * total / len(labels)

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        cosine = unit_features(features) @ F.normalize(self.weight, dim=1).T
        if self.gradient == "exact":
            return self.scale * self._similarity(cosine, labels) + self.bias
        change = self._similarity(cosine.detach(), labels) - cosine.detach()
        return self.scale * (cosine + change) + self.bias

    def _similarity(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Return g of all cosines (M, C), with the margin."""
        if self.margin == "C":
            similarity = self._adjust(cosine) + self.m
            return add_to_target(similarity, labels, torch.full_like(similarity[:, 0], -2 * self.m))
        theta = angle(target_logits(cosine, labels))
        theta = theta + self.m if self.margin == "A" else theta * self.m
        return self._adjust(cosine.scatter(1, labels[:, None], theta.clamp(max=math.pi).cos()[:, None]))

    def _adjust(self, cosine: Tensor) -> Tensor:
        return 2 * ((cosine + 1) / 2).clamp_min(0).pow(self.t) - 1

    def _without_margin(self, features: Tensor) -> Tensor:
        cosine = unit_features(features) @ F.normalize(self.weight, dim=1).T
        return self.scale * self._adjust(cosine) + self.bias
