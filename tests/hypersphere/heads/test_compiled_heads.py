"""Heads under torch.compile: gradients and state are those without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from head_cases import Case, each_head
from slow_cases import mostly_slow, slow
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

from sfplus.hypersphere import HEADS

# Settings with which the state changes much at each step.
ANNEALED = {"base": 10.0, "gamma": 1.0, "lambda_min": 0.0}
CASES: list[Case] = [
    ("adaface", {"t_alpha": 0.5, "h": 3.0}),
    ("arcface", {}),
    ("asoftmax", ANNEALED),
    ("asoftmax", {**ANNEALED, "gradient": "caffe"}),
    ("cosface", {}),
    ("lsoftmax", ANNEALED),
    ("normface", {"learnable": True}),
    ("softmax", {}),
    ("sphereface-r", {"gradient": "exact", "version": "v1", "steps": (1, 2, 3)}),
    ("sphereface2", {"margin": "A"}),
]


def test_every_head_is_compiled() -> None:
    assert {name for name, _ in CASES} == set(HEADS)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _partition(joint: torch.fx.GraphModule, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """Divide into forward and backward as inductor does, and check what backward computes again.

    It must not start from an input that forward changes in place: by then this holds the next value. Inductor does not
    notice, and the gradient is wrong.
    """
    forward, backward = min_cut_rematerialization_partition(joint, inputs, compiler="inductor", **options)
    changed = {node.args[0].name for node in forward.graph.nodes if node.target is torch.ops.aten.copy_.default}
    kept = {node.name for node in backward.graph.nodes if node.op == "placeholder"}
    assert not changed & kept
    return forward, backward


def _run_as_it_is(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    return make_boxed_func(graph)


PARTITIONED = aot_autograd(
    fw_compiler=_run_as_it_is,
    bw_compiler=_run_as_it_is,
    partition_fn=_partition,
    decompositions=select_decomp_table,
    keep_inference_input_mutations=True,
)


@pytest.mark.slow
@pytest.mark.parametrize("learned_features", [True, slow(False, id="fixed")], ids=["features", None])
@each_head(mostly_slow(CASES, CASES[3::5]))
def test_compiled_gradients_and_state_are_those_of_eager(
    name: str, options: dict[str, Any], learned_features: bool
) -> None:
    compare_with_eager(name, options, PARTITIONED, learned_features)


@pytest.mark.slow
@pytest.mark.parametrize("learned_features", [True, False], ids=["features", "fixed"])
@each_head([case for case in CASES if "softmax" in case[0] and case[1]])
def test_compiled_machine_code_has_the_gradients_of_eager(
    name: str, options: dict[str, Any], learned_features: bool
) -> None:
    compare_with_eager(name, options, "inductor", learned_features)


def compare_with_eager(name: str, options: dict[str, Any], backend: Any, learned_features: bool) -> None:
    torch.manual_seed(0)
    eager = HEADS[name](8, 5, **options).double()
    compiled = copy.deepcopy(eager)
    loss: Callable[..., torch.Tensor] = torch.compile(
        compiled.loss if learned_features else compiled, backend=backend, fullgraph=True
    )
    for _ in range(4):
        x, labels = torch.randn(6, 8, dtype=torch.float64), torch.randint(5, (6,))
        features = [x.clone().requires_grad_(learned_features) for _ in range(2)]
        eager.zero_grad()
        compiled.zero_grad()
        results = eager(features[0], labels), loss(features[1], labels)
        for result in results:
            result.backward()
        torch.testing.assert_close(results[1], results[0])
        torch.testing.assert_close(features[1].grad, features[0].grad)
        for actual, expected in zip(compiled.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(actual.grad, expected.grad)
        with torch.no_grad():
            for p in [*eager.parameters(), *compiled.parameters()]:
                p -= 0.3 * p.grad  # type: ignore[operator]
        torch.testing.assert_close(compiled.state_dict(), eager.state_dict())
    assert compiled.current_lambda == eager.current_lambda
