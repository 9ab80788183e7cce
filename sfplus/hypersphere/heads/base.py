"""The interface that all heads share."""

from __future__ import annotations

import math
import operator
import typing
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REGISTRY: dict[str, type[Head]] = {}
"""Every subclass of `Head` that has a name; `heads.HEADS` is the public table."""

_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


class Head(nn.Module):
    """A classifier on top of a network; subclasses define the logits.

    Calling a head returns the training loss, also through DistributedDataParallel, Accelerate or torch.compile; `loss`
    is the same. `logits` returns the logits with the margin, and `predict` those without margin, the largest of which
    is the predicted class. The caller does not normalise features. Features of length 0 and
    features exactly on a classifier or opposite to it give finite logits and gradients. Under autocast the
    computation stays in the dtype of `weight`, which is float32 by default. State that changes during training and
    is not a parameter is a buffer, so that a resumed run continues where it stopped.

    A subclass with a `name` is added to `HEADS`. Every option in its signature is a key of recipes, so it needs a
    default, an annotation of built-in types, and an entry under Args.

    Args:
        features: Size d of a feature.
        classes: Number C of people.

    Attributes:
        weight: The classifier weights (C, d).
        name: The name in recipes.
        limits: Bounds of the options, such as "m >= 0, alpha > 0, alpha < 1".
        repr_attributes: Names of the attributes that `print(head)` shows.
        additive_loss: `entropy` is a sum over classes of a loss of that class's logit alone, not a softmax over all.
    """

    weight: nn.Parameter
    name: ClassVar[str]
    limits: ClassVar[str] = ""
    repr_attributes: ClassVar[tuple[str, ...]] = ()
    additive_loss: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            REGISTRY[cls.name] = cls

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        bound = math.sqrt(3 / features)  # Caffe's "xavier", as in sphereface_model.prototxt
        nn.init.uniform_(self.weight, -bound, bound)

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Check options against `limits` and against the values that a `Literal` in the signature allows.

        Raises:
            ValueError: If an option is out of bounds, not a number or not one of its values.
        """
        hints = typing.get_type_hints(cls.__init__)
        for option, value in options.items():
            if typing.get_origin(hints.get(option)) is typing.Literal and value not in typing.get_args(hints[option]):
                choices = ", ".join(typing.get_args(hints[option]))
                raise ValueError(f"{option} of {cls.__name__} must be one of {choices}, not {value}")
        for option, comparison, limit in map(str.split, filter(None, cls.limits.split(", "))):
            value = options.get(option)
            if value is not None and not isinstance(value, int | float):
                raise ValueError(f"{option} of {cls.__name__} must be a number, not {value!r}")
            if value is not None and not _COMPARE[comparison](value, float(limit)):
                raise ValueError(f"{option} of {cls.__name__} must be {comparison} {limit}, not {value}")

    def extra_repr(self) -> str:
        """Return the sizes and options that `print(head)` shows."""
        classes, features = self.weight.shape
        options = [f"{name}={getattr(self, name)}" for name in self.repr_attributes]
        return ", ".join([str(features), str(classes), *options])

    @property
    def current_lambda(self) -> float:
        """The weight lambda of the plain logit against the logit with margin; 0 for heads without annealing."""
        return 0.0

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss, a scalar; for most heads the mean cross-entropy of `logits`.

        Args:
            features: (M, d), not normalised.
            labels: (M,) int64.
        """
        return self.complete(self.entropy(self.logits(features, labels), labels), features)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss, as calling the head does."""
        loss: Tensor = self(features, labels)
        return loss

    def logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the logits with the margin.

        Args:
            features: (M, d), not normalised; M may be 0.
            labels: (M,) int64.

        Returns:
            Logits (M, C) in the dtype of `weight`.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._with_margin(features.to(self.weight.dtype), labels)

    def entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the part of the loss that depends on the logits with margin (M, C): their mean cross-entropy."""
        return F.cross_entropy(logits, labels)

    def complete(self, entropy: Tensor, features: Tensor) -> Tensor:
        """Return the loss from the result of `entropy`; heads with a factor or a penalty override this."""
        return entropy

    def predict(self, features: Tensor) -> Tensor:
        """Return the logits without margin, (M, d) -> (M, C); the largest is the predicted class."""
        with torch.autocast(features.device.type, enabled=False):
            return self._without_margin(features.to(self.weight.dtype))

    def _with_margin(self, features: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def _without_margin(self, features: Tensor) -> Tensor:
        raise NotImplementedError
