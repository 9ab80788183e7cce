"""ArcFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfplus.hypersphere.heads.margins import angle
from sfplus.hypersphere.heads.normface import NormFace


class ArcFace(NormFace):
    """Additive margin on the angle: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition".

    logit_y = s cos(theta_y + m); where theta_y + m exceeds pi, it is s (cos(theta_y) - m sin(m)), which keeps falling,
    so that such a sample keeps its gradient (insightface's first release).

    Args:
        features: Size d of a feature.
        classes: Number C of people.
        scale: Factor s of the cosines (ArcFace paper).
        m: Margin in radians (ArcFace paper).
    """

    name = "arcface"
    limits = "scale > 0, m >= 0"
    repr_attributes = ("scale", "m")

    def __init__(self, features: int, classes: int, scale: float = 64.0, m: float = 0.5) -> None:
        super().__init__(features, classes, scale)
        self.check_options(m=m)
        self.m = m

    def _margin_change(self, cosine: Tensor, features: Tensor) -> Tensor:
        theta = angle(cosine) + self.m
        return torch.where(theta <= math.pi, theta.cos() - cosine, -self.m * math.sin(self.m))
