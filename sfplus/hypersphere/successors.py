"""SphereFace-R and SphereFace2, the successors of SphereFace by its authors (OpenSphere)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.hypersphere.margin import Head, add_to_target, angle, check_choice, target, unit_features


class SphereFaceR(Head):
    """Multiplicative margin made stable: "SphereFace Revived: Unifying Hyperspherical Face Recognition".

    Version v0: the true class has psi(theta) = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi); v1: it has
    cos(min(m theta, pi)); v2: it keeps cos(theta) and every other class has cos(theta / m). The logits are these
    times s (normalisation "hard") or times ||x|| ("none", "soft"). The loss is loss_weight times cross-entropy, over
    s for hard and soft; soft adds t mean | ||x|| - s |. v0, hard, is also OpenSphere's SphereFace.

    `gradient="detached"` is the paper's characteristic gradient detachment: what the margin changes in a cosine
    counts as a constant, so that the gradient is that of logits without margin, taken at the logits with margin.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        version: of the margin. Source of the defaults: OpenSphere, model/head/spherefacer.py of 2022.
        m: margin, any number of 1 or more.
        normalisation: of the features.
        scale: s.
        loss_weight: 50, or 1 without normalisation, unless given.
        t: weight of the penalty of soft normalisation.
        steps: after these numbers of training forwards m rises from 1 in equal parts; published for none and soft.
        gradient: "detached" or "exact".
    """

    iteration: Tensor
    _steps: Tensor
    shown = "version m normalisation scale gradient"

    def __init__(
        self,
        features: int,
        classes: int,
        version: Literal["v0", "v1", "v2"] = "v0",
        m: float = 1.5,
        normalisation: Literal["hard", "soft", "none"] = "hard",
        scale: float = 30.0,
        loss_weight: float | None = None,
        t: float = 0.01,
        steps: Sequence[int] = (),
        gradient: Literal["detached", "exact"] = "detached",
    ) -> None:
        super().__init__(features, classes)
        check_choice("version", version, ("v0", "v1", "v2"))
        check_choice("normalisation", normalisation, ("hard", "soft", "none"))
        check_choice("gradient", gradient, ("detached", "exact"))
        if not m >= 1:
            raise ValueError(f"the margin m of SphereFace-R is 1 or more, not {m}")
        self.version, self.m, self.normalisation, self.scale, self.gradient = version, m, normalisation, scale, gradient
        self.loss_weight = (1.0 if normalisation == "none" else 50.0) if loss_weight is None else loss_weight
        self.t = t
        self.register_buffer("iteration", torch.tensor(0))
        self.register_buffer("_steps", torch.tensor(list(steps), dtype=torch.int64), persistent=False)

    @property
    def current_margin(self) -> float:
        """The margin of the last training forward; reading it makes a GPU wait where there are steps."""
        return float(self._margin())

    def complete(self, entropy: Tensor, features: Tensor) -> Tensor:
        """The scaled cross-entropy, with the penalty of soft normalisation."""
        loss = self.loss_weight * entropy
        if self.normalisation != "none":
            loss = loss / self.scale
        if self.normalisation == "soft":
            loss = loss + self.t * (features.to(self.weight.dtype).norm(dim=1) - self.scale).abs().mean()
        return loss

    def _margin(self) -> Tensor | float:
        if len(self._steps) == 0:
            return self.m
        return 1 + (self.m - 1) * (self._steps < self.iteration).double().mean()

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            self.iteration += 1
        logits = self._without_margin(features)
        hard = self.normalisation == "hard"
        length: Tensor = torch.full_like(logits[:, 0], self.scale) if hard else features.norm(dim=1)
        if self.version == "v2":
            change = length[:, None] * self._change(logits / length.clamp_min(1e-12)[:, None])
            return logits + change.scatter(1, labels[:, None], 0.0)
        change = length * self._change(target(logits, labels) / length.clamp_min(1e-12))
        return add_to_target(logits, labels, change)

    def _change(self, cosine: Tensor) -> Tensor:
        """What the margin adds to a cosine, that of a true class, or in v2 that of another one."""
        if self.gradient == "detached":
            cosine = cosine.detach()
        theta, m = angle(cosine), self._margin()
        if self.version == "v2":
            return (theta / m).cos() - cosine
        if self.version == "v1":
            return (m * theta).clamp(max=math.pi).cos() - cosine
        k = (m * theta / math.pi).floor()
        return (1 - 2 * (k % 2)) * (m * theta).cos() - 2 * k - cosine

    def _without_margin(self, features: Tensor) -> Tensor:
        scaled = self.scale * unit_features(features) if self.normalisation == "hard" else features
        return scaled @ F.normalize(self.weight, dim=1).T


class SphereFace2(Head):
    """One binary classifier a person: "SphereFace2: Binary Classification is All You Need for Deep Face Recognition".

    logit_j = r g_j + b with the similarity g(z) = 2 ((z + 1) / 2)^t - 1. Margin C: g_y = g(cos(theta_y)) - m, the
    others g(cos(theta_j)) + m; A: g_y = g(cos(min(theta_y + m, pi))); M: g_y = g(cos(min(m theta_y, pi))). The loss
    is loss_weight / r times the mean over samples of alpha log(1 + e^-logit_y) + (1 - alpha) sum_{j != y} log(1 +
    e^logit_j). b is a parameter; it starts where the positive and the negatives pull at it alike while all features
    are at right angles to all classifiers.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people, 2 or more.
        margin: its type. Source of the defaults: OpenSphere, config/papers/SphereFace2.
        m: margin: 0.4 for C, 0.5 for A (radians) and 1.7 for M, unless given.
        alpha: share of the true class (lambda in the paper, equation 5), between 0 and 1.
        scale: r.
        t: exponent of the similarity, 1 or more.
        loss_weight: factor of the loss.
        gradient: "detached" as in `SphereFaceR`, and as released, or "exact".
    """

    shown = "margin m alpha scale t gradient"

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
        check_choice("margin", margin, ("C", "A", "M"))
        check_choice("gradient", gradient, ("detached", "exact"))
        if classes < 2 or not 0 < alpha < 1 or not t >= 1:
            raise ValueError(
                f"SphereFace2 needs classes >= 2, 0 < alpha < 1 and t >= 1, not {classes}, {alpha} and {t}"
            )
        self.margin, self.alpha, self.scale, self.t, self.gradient = margin, alpha, scale, t, gradient
        self.m = {"C": 0.4, "A": 0.5, "M": 1.7}[margin] if m is None else m
        self.loss_weight = loss_weight
        self.bias = nn.Parameter(torch.tensor([self._first_bias()]))

    def _first_bias(self) -> float:
        """b with alpha sigmoid(-own - b) = (1 - alpha) (C - 1) sigmoid(other + b), a quadratic equation in e^b."""
        right_angles = torch.zeros(1, 2, dtype=torch.float64)
        own, other = map(float, self.scale * self._similarity(right_angles, torch.tensor([0]))[0])
        z = self.alpha / ((1 - self.alpha) * (len(self.weight) - 1))
        root = math.sqrt((1 - z) ** 2 + 4 * z * math.exp(own - other))
        if z < 1:
            return math.log(2 * z) - other - math.log(1 - z + root)
        return math.log((z - 1 + root) / 2) - own  # the same without a difference of nearly equal numbers

    def entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted binary logistic loss of the logits with margin."""
        truth = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
        share = 1 - self.alpha + (2 * self.alpha - 1) * truth
        total = F.binary_cross_entropy_with_logits(logits, truth, share, reduction="sum")
        return self.loss_weight / self.scale * total / len(labels)

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        cosine = unit_features(features) @ F.normalize(self.weight, dim=1).T
        if self.gradient == "exact":
            return self.scale * self._similarity(cosine, labels) + self.bias
        change = self._similarity(cosine.detach(), labels) - cosine.detach()
        return self.scale * (cosine + change) + self.bias

    def _similarity(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """g of all cosines (M, C), with the margin."""
        if self.margin == "C":
            similarity = self._adjust(cosine) + self.m
            return add_to_target(similarity, labels, torch.full_like(similarity[:, 0], -2 * self.m))
        theta = angle(target(cosine, labels))
        theta = theta + self.m if self.margin == "A" else theta * self.m
        return self._adjust(cosine.scatter(1, labels[:, None], theta.clamp(max=math.pi).cos()[:, None]))

    def _adjust(self, cosine: Tensor) -> Tensor:
        return 2 * ((cosine + 1) / 2).clamp_min(0).pow(self.t) - 1

    def _without_margin(self, features: Tensor) -> Tensor:
        cosine = unit_features(features) @ F.normalize(self.weight, dim=1).T
        return self.scale * self._adjust(cosine) + self.bias
