"""AdaFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed

from sfplus.hypersphere.heads.margins import angle, snapshot
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
        if self.training:
            self._update_statistics(length)
        quality = snapshot((self.h * (length - self.batch_mean) / (self.batch_std + 1e-3)).clamp(-1, 1))
        return (angle(cosine) - self.m * quality).clamp(0, math.pi).cos() - self.m * (1 + quality) - cosine

    def _update_statistics(self, length: Tensor) -> None:
        """Move mean and standard deviation towards those of the lengths (M,), of this rank or of all ranks."""
        if self.synchronised:
            mean, std = _mean_and_std_of_all_ranks(length)
            is_enough = std.isfinite()
            mean, std = torch.where(is_enough, mean, self.batch_mean), torch.where(is_enough, std, self.batch_std)
        elif len(length) > 1:
            mean, std = length.mean(), length.std()
        else:
            return
        self.batch_mean.lerp_(mean, self.t_alpha)
        self.batch_std.lerp_(std, self.t_alpha)


def _mean_and_std_of_all_ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the values (M,) of all ranks, not finite for fewer than two values."""
    x = values.double()
    sums = torch.stack([x.new_full((), len(x)), x.sum(), x.square().sum()])
    distributed.all_reduce(sums)
    count, total, squares = sums
    variance = (squares - total.square() / count) / (count - 1)
    return (total / count).to(values.dtype), variance.clamp_min(0).sqrt().to(values.dtype)
