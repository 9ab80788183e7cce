"""A-Softmax, the classifier of SphereFace, and L-Softmax, from which it comes."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.heads.margins import (
    add_to_target,
    check_integer_margin,
    margin_cosine,
    margin_slope,
    snapshot,
    target_logits,
)


class AnnealedMargin(Head):
    """The base of `LSoftmax` and `ASoftmax`: psi(theta) as margin, annealed from plain logits to the margin.

    The true class's logit is (lambda plain + margin) / (1 + lambda), with lambda = max(lambda_min,
    base (1 + gamma iteration)^-power); `iteration` counts the forward passes in training mode. m = 1 has no margin
    and no lambda.

    Args:
        features: Size d of a feature.
        classes: Number C of people.
        m: Angular margin, an integer (sphereface_model.prototxt, layer fc6; SphereFace paper: 4 is best).
        base: Lambda before its decay (prototxt).
        gamma: Speed of lambda's decay (prototxt; 0.11 for SphereFace+ with m = 2, 3).
        power: Exponent of lambda's decay (prototxt).
        lambda_min: Smallest lambda (prototxt); sets of few people can be trained with 0.
        iteration: Start of lambda's counter (prototxt; 2000 in SphereFace+ with m = 4).
    """

    limits = "m >= 1, m <= 1000, base >= 0, gamma >= 0, power >= 0, lambda_min >= 0, iteration >= 0"
    iteration: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        m: int = 4,
        base: float = 1000.0,
        gamma: float = 0.12,
        power: float = 1.0,
        lambda_min: float = 5.0,
        iteration: int = 0,
    ) -> None:
        super().__init__(features, classes)
        check_integer_margin(m, type(self).__name__)
        self.check_options(m=m, base=base, gamma=gamma, power=power, lambda_min=lambda_min, iteration=iteration)
        self.m, self.base, self.gamma, self.power, self.lambda_min = m, base, gamma, power, lambda_min
        self.register_buffer("iteration", torch.tensor(iteration, dtype=torch.int64))

    @property
    def current_lambda(self) -> float:
        """The lambda of the last training forward, computed from the counter; reading it makes a GPU wait."""
        return float(self._lambda())

    def _lambda(self) -> Tensor:
        decay = (1 + self.gamma * self.iteration.double()).pow(-self.power)
        return snapshot((self.base * decay).clamp_min(self.lambda_min))

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            self.iteration += 1
        logits = features @ self._classifiers().T
        if self.m == 1:
            return logits
        change = self._margin_change(target_logits(logits, labels), features, labels)
        return add_to_target(logits, labels, change / (1 + self._lambda()).to(logits.dtype))

    def _classifiers(self) -> Tensor:
        """Return the classifier weights (C, d) of a forward pass."""
        raise NotImplementedError

    def _margin_change(self, plain: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Return the difference that the margin makes to the true classes' logits `plain` (M,)."""
        raise NotImplementedError


class LSoftmax(AnnealedMargin):
    """Large-margin softmax: "Large-Margin Softmax Loss for Convolutional Neural Networks".

    logit_j = w_j . x for the other classes; (lambda w_y . x + ||w_y|| ||x|| psi(theta_y)) / (1 + lambda) for the true
    one. Classifiers are not normalised.

    Args:
        features, classes, m, base, gamma, power, lambda_min, iteration: As in `AnnealedMargin`.
    """

    name = "lsoftmax"
    repr_attributes = ("m", "current_lambda")

    def __init__(
        self,
        features: int,
        classes: int,
        m: int = 4,
        base: float = 1000.0,
        gamma: float = 0.12,
        power: float = 1.0,
        lambda_min: float = 5.0,
        iteration: int = 0,
    ) -> None:
        super().__init__(features, classes, m, base, gamma, power, lambda_min, iteration)

    def _classifiers(self) -> Tensor:
        return self.weight

    def _margin_change(self, plain: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        length: Tensor = features.norm(dim=1) * F.embedding(labels, self.weight).norm(dim=1)
        return length * margin_cosine(_cosine(plain, length), self.m) - plain

    def _without_margin(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


class ASoftmax(AnnealedMargin):
    """SphereFace's classifier, the layer `MarginInnerProduct`: L-Softmax with classifiers of unit norm.

    "SphereFace: Deep Hypersphere Embedding for Face Recognition", section 3.2; margin_inner_product_layer.cpp.
    In training mode the rows of `weight` are first brought to unit norm in place, as Caffe does, and the gradient is
    that of normalised rows. Second derivatives with respect to the weight exist in evaluation mode only.

    `gradient="caffe"` gives the released layer's gradient, which differs from the exact one. The gradient of the
    weight is that of a plain inner product, for every class: no margin, no normalisation. The gradient of a feature is
    exact except for the margin's part of the true class, a cw w + cx x, which is divided by sqrt(cw^2 + cx^2). The
    released settings were tuned with it.

    Args:
        features, classes, m, base, gamma, power, lambda_min, iteration: As in `AnnealedMargin`.
        gradient: caffe: that of the released layer, which omits the margin in the classifiers' gradient.
    """

    name = "asoftmax"
    repr_attributes = ("m", "current_lambda", "gradient")

    def __init__(
        self,
        features: int,
        classes: int,
        m: int = 4,
        base: float = 1000.0,
        gamma: float = 0.12,
        power: float = 1.0,
        lambda_min: float = 5.0,
        iteration: int = 0,
        gradient: Literal["exact", "caffe"] = "exact",
    ) -> None:
        super().__init__(features, classes, m, base, gamma, power, lambda_min, iteration)
        self.check_options(gradient=gradient)
        self.gradient = gradient

    def _classifiers(self) -> Tensor:
        if not self.training and self.gradient == "exact":
            return F.normalize(self.weight, dim=1)
        rows: Tensor = _UnitRows.apply(self.weight, self.gradient == "exact")
        if self.training:
            with torch.no_grad():
                self.weight.copy_(rows)
        return rows

    def _margin_change(self, plain: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        length: Tensor = features.norm(dim=1)
        if self.gradient == "exact":
            return length * margin_cosine(_cosine(plain, length), self.m) - plain
        plain, length, x = plain.detach(), length.detach(), features.detach()
        w = F.normalize(F.embedding(labels, self.weight.detach()), dim=1)
        cosine = _cosine(plain, length)
        psi, slope = margin_cosine(cosine, self.m), margin_slope(cosine, self.m)
        along_w, along_x = slope * length, psi - slope * cosine  # ||x|| times cw and cx
        pull = (along_w[:, None] * w + along_x[:, None] * x) / torch.hypot(along_w, along_x)[:, None] - w
        linear = (features * pull).sum(1)
        return length * psi - plain + (linear - linear.detach())  # the exact value with the layer's gradient

    def _without_margin(self, features: Tensor) -> Tensor:
        return features @ F.normalize(self.weight, dim=1).T


class _UnitRows(torch.autograd.Function):
    """Normalise rows of a weight that is set to them right after: the gradient is that at unit norm."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tangential: bool) -> Tensor:
        unit = snapshot(F.normalize(weight, dim=1))
        ctx.tangential = tangential
        ctx.save_for_backward(unit)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if not ctx.tangential:
            return grad, None
        (unit,) = ctx.saved_tensors
        return torch.addcmul(grad, unit, (grad * unit).sum(1, keepdim=True), value=-1), None


def _cosine(inner: Tensor, length: Tensor) -> Tensor:
    """Return the cosine from an inner product and the product of both lengths; 0 where that product is 0."""
    return (inner / length.clamp_min(1e-12)).clamp(-1, 1)
