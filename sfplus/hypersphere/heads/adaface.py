"""AdaFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed

from sfplus.hypersphere.heads.margins import angle
from sfplus.hypersphere.heads.normface import NormFace


class AdaFace(NormFace):
    """Margin that follows the length of the feature: "AdaFace: Quality Adaptive Margin for Face Recognition".

    logit_y = s (cos(theta_y - m z) - (m + m z)), theta_y - m z clamped to [0, pi], where z = (||x|| - mean) / (std / h)
    is clamped to [-1, 1] and not differentiated (section 3). `batch_mean` and `batch_std` follow the lengths of
    features, clamped to [0.001, 100], as in the released code: new = t_alpha batch + (1 - t_alpha) old; the paper's
    momentum of 0.99 is that of the old value. They are updated in training mode, by batches of two or more. The
    released code also keeps all cosines and angles 0.001 away from their limits.

    Args:
        features: Size d of a feature.
        classes: Number C of people.
        scale: Factor s of the cosines (AdaFace, head.py).
        m: Margin (AdaFace, head.py).
        h: Factor of the length's distance from the mean in standard deviations (AdaFace, head.py).
        t_alpha: Weight of a batch in the running mean and standard deviation of lengths (AdaFace, README).

    Attributes:
        synchronised: The batch of the running statistics is that of all ranks of `torch.distributed`; False by default.
    """

    name = "adaface"
    limits = "scale > 0, m >= 0, h > 0, t_alpha > 0, t_alpha <= 1"
    repr_attributes = ("scale", "m", "h", "t_alpha")
    batch_mean: Tensor
    batch_std: Tensor

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
        self.check_options(m=m, h=h, t_alpha=t_alpha)
        self.m, self.h, self.t_alpha, self.synchronised = m, h, t_alpha, False
        self.register_buffer("batch_mean", torch.tensor(20.0))
        self.register_buffer("batch_std", torch.tensor(100.0))

    def _margin_change(self, cosine: Tensor, features: Tensor) -> Tensor:
        length: Tensor = features.detach().norm(dim=1).clamp(0.001, 100)
        if self.training and (statistics := _mean_and_std(length, self.synchronised)) is not None:
            self.batch_mean.lerp_(statistics[0], self.t_alpha)
            self.batch_std.lerp_(statistics[1], self.t_alpha)
        quality = (self.h * (length - self.batch_mean) / (self.batch_std + 1e-3)).clamp(-1, 1)
        return (angle(cosine) - self.m * quality).clamp(0, math.pi).cos() - self.m * (1 + quality) - cosine


def _mean_and_std(values: Tensor, over_all_ranks: bool) -> tuple[Tensor, Tensor] | None:
    """Return mean and standard deviation of the values (M,) of this rank or of all ranks; None for fewer than two."""
    if not over_all_ranks:
        return (values.mean(), values.std()) if len(values) > 1 else None
    x = values.double()
    sums = torch.stack([x.new_tensor(len(x)), x.sum(), x.square().sum()])
    distributed.all_reduce(sums)
    count, total, squares = sums
    variance = (squares - total.square() / count) / (count - 1)
    return None if count < 2 else ((total / count).to(values.dtype), variance.clamp_min(0).sqrt().to(values.dtype))
