"""CosFace, also known as AM-Softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from sfplus.hypersphere.heads.normface import NormFace


class CosFace(NormFace):
    """Additive margin on the cosine: "CosFace: Large Margin Cosine Loss for Deep Face Recognition" (AM-Softmax).

    logit_y = s (cos(theta_y) - m).

    Args:
        features: Size d of a feature.
        classes: Number C of people.
        scale: Factor s of the cosines (CosFace paper, OpenSphere).
        m: Margin (CosFace paper, OpenSphere).
    """

    name = "cosface"
    limits = "scale > 0, m >= 0"
    repr_attributes = ("scale", "m")

    def __init__(self, features: int, classes: int, scale: float = 64.0, m: float = 0.35) -> None:
        super().__init__(features, classes, scale)
        self.check_options(m=m)
        self.m = m

    def _margin_change(self, cosine: Tensor, features: Tensor) -> Tensor:
        return torch.full_like(cosine, -self.m)
