from __future__ import annotations

import math
import runpy
from types import FunctionType

import pytest
import torch
import torch.nn.functional as F

from sfplus.hypersphere import collectives
from sfplus.hypersphere.collectives import Ranks, cross_entropy


def test_cross_entropy_has_an_exact_gradient_and_is_stable_for_large_logits() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 2, 0])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels, Ranks()), logits)
    large = 1e4 * torch.randn(5, 3)
    padded = torch.cat([large, torch.full((5, 1), math.inf)], 1)
    torch.testing.assert_close(cross_entropy(padded, labels, Ranks()), F.cross_entropy(large, labels))
    torch.testing.assert_close(
        cross_entropy(padded.bfloat16(), labels, Ranks()), F.cross_entropy(large.bfloat16().float(), labels)
    )


def test_torch_without_distributed_is_enough_for_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in list(vars(torch.distributed).items()):
        if type(value) is FunctionType and not name.startswith("_"):
            monkeypatch.delattr(torch.distributed, name)  # as in a build of torch with USE_DISTRIBUTED=0
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False, raising=False)
    ranks = runpy.run_path(collectives.__file__)["Ranks"]()  # imported again, as in a new process
    values = torch.arange(3)
    assert torch.equal(ranks.gather(values), values[None]) and torch.equal(ranks.reduce_scatter(values[None]), values)
