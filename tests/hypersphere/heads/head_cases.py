"""The configurations of heads that are tested, and functions that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfplus.hypersphere import HEADS, Head

Case = tuple[str, dict[str, Any]]

EXACT: list[Case] = [
    ("softmax", {}),
    ("normface", {}),
    ("normface", {"learnable": True}),
    ("asoftmax", {"m": 1}),
    ("asoftmax", {"m": 5, "base": 0.0, "lambda_min": 0.5}),
    ("lsoftmax", {"m": 3, "base": 0.0, "lambda_min": 0.5}),
    ("cosface", {}),
    ("arcface", {}),
    ("adaface", {}),
    *[("sphereface-r", {"version": v, "gradient": "exact"}) for v in ("v0", "v1", "v2")],
    *[("sphereface-r", {"version": "v0", "normalisation": n, "gradient": "exact"}) for n in ("soft", "none")],
    ("sphereface-r", {"version": "v2", "normalisation": "soft", "m": 2.5, "gradient": "exact"}),
    *[("sphereface2", {"margin": m, "gradient": "exact"}) for m in ("C", "A", "M")],
]
DETACHED: list[Case] = [
    *[
        ("sphereface-r", {"version": v, "normalisation": n})
        for v in ("v0", "v1", "v2")
        for n in ("hard", "soft", "none")
    ],
    *[("sphereface2", {"margin": m}) for m in ("C", "A", "M")],
]
ALL: list[Case] = [*EXACT, *DETACHED, ("asoftmax", {"gradient": "caffe"})]


def name_case(case: object) -> str | None:
    """Name the parameters of a test by the options of the head."""
    return "-".join(map(str, case.values())) or "plain" if isinstance(case, dict) else None


def each_head(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "options"), cases, ids=name_case)


def create_head(name: str, classes: int = 5, features: int = 6, **options: Any) -> Head:
    torch.manual_seed(0)
    return HEADS[name](features, classes, **options).double().eval()


def batch(samples: int = 12, features: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(samples, features, dtype=torch.float64), torch.arange(samples) % classes


def cosines_of(head: Head, x: Tensor) -> np.ndarray:
    w, x = head.weight.detach(), x.detach()
    return ((x @ w.T) / x.norm(dim=1)[:, None] / w.norm(dim=1)).numpy()


def entropy_of(logits: np.ndarray, labels: Tensor) -> float:
    return float(np.mean([np.log(np.exp(row - row[y]).sum()) for row, y in zip(logits, labels, strict=True)]))


class Function:
    """A method of a head as a function of the features and of all parameters."""

    def __init__(self, head: Head, method: Callable[[Tensor, Tensor], Tensor], labels: Tensor) -> None:
        self.module, self.labels = nn.Module(), labels
        self.module.head, self.module.forward = head, method  # type: ignore[method-assign]
        self.names = [name for name, _ in self.module.named_parameters()]

    def __call__(self, x: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(self.names, values, strict=True))
        result: Tensor = torch.func.functional_call(self.module, parameters, (x, self.labels))
        return result
