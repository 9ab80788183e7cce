"""NormFace, softmax on scaled cosines, and the base of the heads that add a margin to a cosine."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.heads.margins import add_to_target, target_logits, unit_features


class NormFace(Head):
    """Softmax on scaled cosines: "NormFace: L2 Hypersphere Embedding for Face Verification".

    logit_j = s cos(theta_j). Subclasses change the cosine of the true class.

    Args:
        features: Size d of a feature.
        classes: Number C of people.
        scale: Factor s of the cosines (OpenSphere, CocoLoss).
        learnable: Learn the factor.
    """

    name = "normface"
    limits = "scale > 0"
    repr_attributes: ClassVar[tuple[str, ...]] = ("scale",)
    scale: float | Tensor

    def __init__(self, features: int, classes: int, scale: float = 30.0, learnable: bool = False) -> None:
        super().__init__(features, classes)
        self.check_options(scale=scale)
        if learnable:
            self.scale = nn.Parameter(torch.tensor(scale))
        else:
            self.scale = scale

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        logits = self._without_margin(features)
        change = self._margin_change(target_logits(logits, labels) / self.scale, features)
        return add_to_target(logits, labels, self.scale * change)

    def _margin_change(self, cosine: Tensor, features: Tensor) -> Tensor:
        """Return what the margin adds to the true classes' cosines (M,)."""
        return torch.zeros_like(cosine)

    def _without_margin(self, features: Tensor) -> Tensor:
        return (self.scale * unit_features(features)) @ F.normalize(self.weight, dim=1).T
