"""Classifiers with an angular margin: what all heads share, and the family of A-Softmax (SphereFace).

The other heads are in `heads.py`, with the table of all, and in `successors.py`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def margin_cosine(cosine: Tensor, m: int) -> Tensor:
    """psi(theta) = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi): falls from 1 to 1 - 2m over [0, pi].

    Evaluated as the Chebyshev polynomial T_m of the cosine (SphereFace paper, section 3.2; for m up to 4 as in
    margin_inner_product_layer.cpp), so that no arc cosine spoils the gradient near 0 and pi. The branches meet at
    extrema of T_m, which have slope 0: value and derivative are right at every point of [-1, 1].

    Args:
        cosine: cos(theta) in [-1, 1], any shape.
        m: the margin, a whole number of 1 or more.
    """
    _check_margin(m)
    branch, before, value = _branch(cosine, m), torch.ones_like(cosine), cosine
    for _ in range(m - 1):
        before, value = value, 2 * cosine * value - before
    return (1 - 2 * (branch % 2)) * value - 2 * branch


def _margin_slope(cosine: Tensor, m: int) -> Tensor:
    """d psi / d cos = (-1)^k m U_{m-1}(cos)."""
    branch, before, value = _branch(cosine, m), torch.zeros_like(cosine), torch.ones_like(cosine)
    for _ in range(m - 1):
        before, value = value, 2 * cosine * value - before
    return (1 - 2 * (branch % 2)) * m * value


def _branch(cosine: Tensor, m: int) -> Tensor:
    """k = floor(m theta / pi), at most m - 1: how many of the angles pi/m, 2 pi/m, ... are passed."""
    angles = torch.arange(1, m, device=cosine.device, dtype=cosine.dtype) * (math.pi / m)
    return (cosine.detach().unsqueeze(-1) < angles.cos()).sum(-1)


def _check_margin(m: int) -> None:
    if not isinstance(m, int) or m < 1:
        raise ValueError(f"the margin m of A-Softmax is a whole number of 1 or more, not {m}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless an option has one of its values."""
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {value}")


class Head(nn.Module):
    """A classifier on top of a network; subclasses say what the logits are.

    `forward` gives the logits with the margin, `loss` the loss they are trained with, `predict` the logits without
    margin, whose largest is the predicted class. Features are not normalised by the caller. Features of length 0 and
    features exactly on a classifier or opposite to it give finite logits and gradients. Under autocast the
    computation stays in the dtype of `weight`, which is float32 unless it was changed. What changes during training
    and is no parameter is a buffer, so that a resumed run goes on where it was.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
    """

    weight: nn.Parameter
    shown = ""
    """The attributes that `print(head)` shows."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        bound = math.sqrt(3 / features)  # Caffe's "xavier", as in sphereface_model.prototxt
        nn.init.uniform_(self.weight, -bound, bound)

    def extra_repr(self) -> str:
        """What `print(head)` shows."""
        classes, features = self.weight.shape
        return ", ".join(
            [str(features), str(classes), *(f"{name}={getattr(self, name)}" for name in self.shown.split())]
        )

    @property
    def current_lambda(self) -> float:
        """lambda, the weight of the plain logit against the one with the margin; 0 where there is no annealing."""
        return 0.0

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits with the margin.

        Args:
            features: (M, d), not normalised; M may be 0.
            labels: (M,) int64.

        Returns:
            (M, C), the dtype of `weight`.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._with_margin(features.to(self.weight.dtype), labels)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar: the mean cross-entropy of the logits with the margin."""
        return self.complete(self.entropy(self(features, labels), labels), features)

    def entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What `loss` makes of logits with margin (M, C): their mean cross-entropy."""
        return F.cross_entropy(logits, labels)

    def complete(self, entropy: Tensor, features: Tensor) -> Tensor:
        """What `loss` makes of `entropy`: itself, but for heads with a factor or a penalty."""
        return entropy

    def predict(self, features: Tensor) -> Tensor:
        """Logits without margin: (M, d) -> (M, C); their largest is the predicted class."""
        with torch.autocast(features.device.type, enabled=False):
            return self._without_margin(features.to(self.weight.dtype))

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def _without_margin(self, features: Tensor) -> Tensor:
        raise NotImplementedError


def target(logits: Tensor, labels: Tensor) -> Tensor:
    """The true classes' logits (M,) of (M, C)."""
    return logits[torch.arange(len(labels), device=labels.device), labels]


def add_to_target(logits: Tensor, labels: Tensor, change: Tensor) -> Tensor:
    """Add `change` (M,) to the true classes' logits (M, C) in place: the gradient of all logits passes untouched."""
    return logits.scatter_add_(1, labels[:, None], change[:, None])


def unit_features(features: Tensor) -> Tensor:
    """Features (M, d) over their length; those of length 0 have no direction: they stay 0, with gradient 0."""
    length: Tensor = features.norm(dim=1, keepdim=True)
    return features / length.masked_fill(length < 1e-12, math.inf)


def angle(cosine: Tensor) -> Tensor:
    """The arc cosine, with a finite slope: the cosine is held 4 roundings (float32: 0.001 rad) from 1 and -1."""
    edge = 1 - 4 * torch.finfo(cosine.dtype).eps
    return cosine.clamp(-edge, edge).acos()


class _UnitRows(torch.autograd.Function):
    """Rows of unit norm, for a weight that takes their values right after: its gradient is that at unit norm."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tangential: bool) -> Tensor:
        unit = F.normalize(weight, dim=1)
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
    """The cosine of vectors from their inner product and the product of their lengths; 0 where that is 0."""
    return (inner / length.clamp_min(1e-12)).clamp(-1, 1)


class LSoftmax(Head):
    """Large-margin softmax: "Large-Margin Softmax Loss for Convolutional Neural Networks".

    logit_j = w_j . x for the other classes; (lambda w_y . x + ||w_y|| ||x|| psi(theta_y)) / (1 + lambda) for the true
    one. lambda = max(lambda_min, base (1 + gamma iteration)^-power) anneals from plain logits to the margin;
    `iteration` counts the forward passes in training mode. m = 1 has no margin and no lambda.

    Args:
        features: d, the size of a feature.
        classes: C, the number of people.
        m: margin, a whole number of 1 or more.
        base: lambda before the decay. Source of the defaults: sphereface_model.prototxt.
        gamma: speed of the decay.
        power: exponent of the decay.
        lambda_min: where the decay stops.
        iteration: start of the counter.
    """

    iteration: Tensor
    shown = "m current_lambda"

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
        _check_margin(m)
        self.m, self.base, self.gamma, self.power, self.lambda_min = m, base, gamma, power, lambda_min
        self.register_buffer("iteration", torch.tensor(iteration, dtype=torch.int64))

    @property
    def current_lambda(self) -> float:
        """lambda of the last training forward (of the counter as it stands); reading it makes a GPU wait."""
        return float(self._lambda())

    def _lambda(self) -> Tensor:
        decay = (1 + self.gamma * self.iteration.double()).pow(-self.power)
        return (self.base * decay).clamp_min(self.lambda_min)

    def _rows(self) -> Tensor:
        """The classifiers (C, d) of a forward pass."""
        return self.weight

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            self.iteration += 1
        logits = features @ self._rows().T
        if self.m == 1:
            return logits
        change = self._margin_change(target(logits, labels), features, labels) / (1 + self._lambda()).to(logits.dtype)
        return add_to_target(logits, labels, change)

    def _margin_change(self, plain: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """What the margin changes in the true classes' logits `plain` (M,)."""
        length: Tensor = features.norm(dim=1) * F.embedding(labels, self.weight).norm(dim=1)
        return length * margin_cosine(_cosine(plain, length), self.m) - plain

    def _without_margin(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


class ASoftmax(LSoftmax):
    """The last layer of SphereFace, `MarginInnerProduct`: L-Softmax with classifiers of unit norm.

    "SphereFace: Deep Hypersphere Embedding for Face Recognition", section 3.2; margin_inner_product_layer.cpp.
    In training mode the rows of `weight` are first brought to unit norm in place, as Caffe does, and the gradient is
    that of normalised rows. Second derivatives by the weight are there in evaluation mode only.

    `gradient="caffe"` gives the released layer's gradient, which differs from the exact one. That of the weight is
    the one of a plain inner product, for every class: no margin, no normalisation. That of a feature is exact but
    for the margin's part of the true class, a cw w + cx x, which is divided by sqrt(cw^2 + cx^2). The released
    settings were tuned with it.

    Args:
        features: as in `LSoftmax`, and so are the other arguments.
        classes: C, the number of people.
        gradient: "exact" or "caffe".
        options: of `LSoftmax`.
    """

    shown = "m current_lambda gradient"

    def __init__(
        self, features: int, classes: int, *, gradient: Literal["exact", "caffe"] = "exact", **options: Any
    ) -> None:
        super().__init__(features, classes, **options)
        check_choice("gradient", gradient, ("exact", "caffe"))
        self.gradient = gradient

    def _rows(self) -> Tensor:
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
        own = F.normalize(F.embedding(labels, self.weight.detach()), dim=1)
        cosine = _cosine(plain, length)
        psi, slope = margin_cosine(cosine, self.m), _margin_slope(cosine, self.m)
        along_w, along_x = slope * length, psi - slope * cosine  # ||x|| times cw and cx
        pull = (along_w[:, None] * own + along_x[:, None] * x) / torch.hypot(along_w, along_x)[:, None] - own
        linear = (features * pull).sum(1)
        return length * psi - plain + (linear - linear.detach())  # the value of one, the gradient of the other

    def _without_margin(self, features: Tensor) -> Tensor:
        return features @ F.normalize(self.weight, dim=1).T
