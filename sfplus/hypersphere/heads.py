"""Heads that normalise features, plain softmax, and the table of all heads; their interface is `margin.Head`.

SphereFace+ is any of them plus the class energy: `head.loss(x, y) + weight * class_energy(head.weight, y, power=2)`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from sfplus.hypersphere.margin import ASoftmax, Head, LSoftmax, add_to_target, angle, target, unit_features
from sfplus.hypersphere.successors import SphereFace2, SphereFaceR


class Softmax(Head):
    """Plain softmax on x . w, without bias, so that all heads have the same parameters and none favours a class."""

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        return self._without_margin(features)

    def _without_margin(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


class NormFace(Head):
    """Softmax on scaled cosines: "NormFace: L2 Hypersphere Embedding for Face Verification".

    logit_j = s cos(theta_j). The base of the heads that normalise features and classifiers: they change cosines.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        scale: s. Source of the default: OpenSphere's CocoLoss.
        learnable: whether s is a parameter.
    """

    shown = "scale"
    scale: float | Tensor

    def __init__(self, features: int, classes: int, scale: float = 30.0, learnable: bool = False) -> None:
        super().__init__(features, classes)
        if learnable:
            self.scale = nn.Parameter(torch.tensor(scale))
        else:
            self.scale = scale

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        logits = self._without_margin(features)
        change = self._change(target(logits, labels) / self.scale, features)
        return add_to_target(logits, labels, self.scale * change)

    def _change(self, cosine: Tensor, features: Tensor) -> Tensor:
        """What the margin adds to the true classes' cosines (M,)."""
        return torch.zeros_like(cosine)

    def _without_margin(self, features: Tensor) -> Tensor:
        return (self.scale * unit_features(features)) @ F.normalize(self.weight, dim=1).T


class CosFace(NormFace):
    """Additive cosine margin: "CosFace: Large Margin Cosine Loss for Deep Face Recognition" (AM-Softmax).

    logit_y = s (cos(theta_y) - m).

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        scale: s. Source of the defaults: the paper and OpenSphere.
        m: margin.
    """

    shown = "scale m"

    def __init__(self, features: int, classes: int, scale: float = 64.0, m: float = 0.35) -> None:
        super().__init__(features, classes, scale)
        self.m = m

    def _change(self, cosine: Tensor, features: Tensor) -> Tensor:
        return torch.full_like(cosine, -self.m)


class ArcFace(NormFace):
    """Additive angular margin: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition".

    logit_y = s cos(theta_y + m); where theta_y + m exceeds pi, s (cos(theta_y) - m sin(m)), so that it keeps falling
    and such a sample keeps its gradient (insightface's first release).

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        scale: s. Source of the defaults: the paper.
        m: margin in radians.
    """

    shown = "scale m"

    def __init__(self, features: int, classes: int, scale: float = 64.0, m: float = 0.5) -> None:
        super().__init__(features, classes, scale)
        self.m = m

    def _change(self, cosine: Tensor, features: Tensor) -> Tensor:
        theta = angle(cosine) + self.m
        return torch.where(theta <= math.pi, theta.cos() - cosine, -self.m * math.sin(self.m))


class AdaFace(NormFace):
    """Margin by image quality: "AdaFace: Quality Adaptive Margin for Face Recognition", section 3.

    logit_y = s (cos(theta_y - m z) - (m + m z)), theta_y - m z held in [0, pi]; z = (||x|| - mean) / (std / h) held
    in [-1, 1] and not differentiated. `batch_mean` and `batch_std` follow the lengths of features, held in
    [0.001, 100], as in the released code: new = t_alpha batch + (1 - t_alpha) old; the paper's momentum of 0.99 is
    that of the old value. They move in training mode, for batches of two or more. The released code holds also all
    cosines and angles 0.001 from their ends.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        scale: s. Source of the defaults: README and head.py of the released code.
        m: margin.
        h: how much of the spread of lengths is used.
        t_alpha: share of a batch in the running mean and standard deviation.

    Attributes:
        synchronised: whether that batch is the one of all ranks of `torch.distributed` together; False unless set.
    """

    batch_mean: Tensor
    batch_std: Tensor
    shown = "scale m h t_alpha"

    def __init__(
        self,
        features: int,
        classes: int,
        scale: float = 64.0,
        m: float = 0.4,
        h: float = 0.333,
        t_alpha: float = 0.01,
    ) -> None:
        super().__init__(features, classes, scale)
        self.m, self.h, self.t_alpha, self.synchronised = m, h, t_alpha, False
        self.register_buffer("batch_mean", torch.tensor(20.0))
        self.register_buffer("batch_std", torch.tensor(100.0))

    def _change(self, cosine: Tensor, features: Tensor) -> Tensor:
        length: Tensor = features.detach().norm(dim=1).clamp(0.001, 100)
        if self.training and (found := _mean_and_std(length, self.synchronised)) is not None:
            self.batch_mean.lerp_(found[0], self.t_alpha)
            self.batch_std.lerp_(found[1], self.t_alpha)
        quality = (self.h * (length - self.batch_mean) / (self.batch_std + 1e-3)).clamp(-1, 1)
        return (angle(cosine) - self.m * quality).clamp(0, math.pi).cos() - self.m * (1 + quality) - cosine


def _mean_and_std(values: Tensor, of_all_ranks: bool) -> tuple[Tensor, Tensor] | None:
    """Of values (M,), of this rank or of all together; None for fewer than two."""
    if not of_all_ranks:
        return (values.mean(), values.std()) if len(values) > 1 else None
    x = values.double()
    sums = torch.stack([x.new_tensor(len(x)), x.sum(), x.square().sum()])
    distributed.all_reduce(sums)
    count, total, squares = sums
    variance = (squares - total.square() / count) / (count - 1)
    return None if count < 2 else ((total / count).to(values.dtype), variance.clamp_min(0).sqrt().to(values.dtype))


HEADS: dict[str, type[Head]] = {
    "softmax": Softmax,
    "normface": NormFace,
    "asoftmax": ASoftmax,
    "lsoftmax": LSoftmax,
    "sphereface-r": SphereFaceR,
    "sphereface2": SphereFace2,
    "cosface": CosFace,
    "arcface": ArcFace,
    "adaface": AdaFace,
}
"""The heads by the names that recipes use."""
