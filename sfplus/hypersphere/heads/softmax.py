"""The plain softmax classifier."""

from __future__ import annotations

from torch import Tensor

from sfplus.hypersphere.heads.base import Head


class Softmax(Head):
    """Plain softmax on x . w.

    There is no bias, so that all heads have the same parameters and no class is favoured.

    Args:
        features: Size d of a feature.
        classes: Number C of people.
    """

    name = "softmax"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        return self._without_margin(features)

    def _without_margin(self, features: Tensor) -> Tensor:
        return features @ self.weight.T
