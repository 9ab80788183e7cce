"""SphereFace-R, by the authors of SphereFace (OpenSphere)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.heads.margins import add_to_target, angle, snapshot, target_logits, unit_features


class SphereFaceR(Head):
    """Stable multiplicative margin: "SphereFace Revived: Unifying Hyperspherical Face Recognition".

    Version v0: the true class has psi(theta) = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi); v1: it has
    cos(min(m theta, pi)); v2: it keeps cos(theta) and every other class has cos(theta / m). The logits are these
    times s (normalisation "hard") or times ||x|| ("none", "soft"). The loss is loss_weight times the cross-entropy,
    divided by s for hard and soft; soft adds t mean | ||x|| - s |. v0 with hard and loss_weight = s is OpenSphere's
    SphereFace. OpenSphere sets the weight to unit norm in place at each forward; here it is left alone.

    `gradient="detached"` is the paper's characteristic gradient detachment: the change that the margin makes to a
    cosine counts as a constant, so that the gradient is that of logits without margin, at the logits with margin.

    Args:
        features: Size d of a feature.
        classes: Number C of people.
        version: Form of the multiplicative margin (defaults: OpenSphere, model/head/spherefacer.py of 2022).
        m: Margin, any number of at least 1.
        normalisation: Normalisation of the features.
        scale: Length s that features are brought to.
        loss_weight: Factor of the loss; 50 by default, or 1 without normalisation.
        t: Weight of the penalty of soft normalisation.
        steps: Training forwards after which m rises from 1 in equal parts; published for none and soft.
        gradient: detached: as published.
    """

    name = "sphereface-r"
    limits = "m >= 1, scale > 0, loss_weight > 0, t >= 0"
    repr_attributes = ("version", "m", "normalisation", "scale", "gradient")
    iteration: Tensor
    _steps: Tensor

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
        steps: tuple[int, ...] = (),
        gradient: Literal["detached", "exact"] = "detached",
    ) -> None:
        super().__init__(features, classes)
        self.check_options(version=version, m=m, normalisation=normalisation, scale=scale)
        self.check_options(loss_weight=loss_weight, t=t, gradient=gradient)
        self.version, self.m, self.normalisation, self.scale, self.gradient = version, m, normalisation, scale, gradient
        self.loss_weight = (1.0 if normalisation == "none" else 50.0) if loss_weight is None else loss_weight
        self.t = t
        self.register_buffer("iteration", torch.tensor(0))
        self.register_buffer("_steps", torch.tensor(steps, dtype=torch.int64), persistent=False)

    @property
    def current_margin(self) -> float:
        """The margin of the last training forward; reading it makes a GPU wait if `steps` were given."""
        return float(self._margin())

    def complete(self, entropy: Tensor, features: Tensor) -> Tensor:
        """Return the scaled cross-entropy, plus the penalty of soft normalisation."""
        loss = self.loss_weight * entropy
        if self.normalisation != "none":
            loss = loss / self.scale
        if self.normalisation == "soft":
            loss = loss + self.t * (features.to(self.weight.dtype).norm(dim=1) - self.scale).abs().mean()
        return loss

    def _margin(self) -> Tensor | float:
        if len(self._steps) == 0:
            return self.m
        return snapshot(1 + (self.m - 1) * (self._steps < self.iteration).double().mean())

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            self.iteration += 1
        logits = self._without_margin(features)
        hard = self.normalisation == "hard"
        length: Tensor = torch.full_like(logits[:, 0], self.scale) if hard else features.norm(dim=1)
        if self.version == "v2":
            change = length[:, None] * self._margin_change(logits / length.clamp_min(1e-12)[:, None])
            return logits + change.scatter(1, labels[:, None], 0.0)
        change = length * self._margin_change(target_logits(logits, labels) / length.clamp_min(1e-12))
        return add_to_target(logits, labels, change)

    def _margin_change(self, cosine: Tensor) -> Tensor:
        """Return what the margin adds to cosines: those of the true classes, or in v2 those of the other classes."""
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
