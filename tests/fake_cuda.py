"""CUDA tensors without a GPU: they have a shape, a dtype and a device, but no values (FakeTensorMode of torch).

Code that runs under `fake_cuda` shows two errors that no test on a CPU can show. A tensor on the wrong device raises
FakeTensorDeviceMismatchError, or another RuntimeError that says so. Code for which the program must wait until the GPU
has finished raises DataDependentOutputException (a value is read: `.item()`, `int()`, `if tensor:`),
DynamicOutputShapeException (the shape of a result depends on values: `nonzero`, `unique`, a boolean index) or
`WaitsForGPU` (a copy between CPU and GPU without `non_blocking`, which `x[index] = 1` also is). On a real GPU the same
cases are reported by `torch.cuda.set_sync_debug_mode("error")`.

    with fake_cuda() as gpu:
        with gpu.copies():  # the set-up copies to the GPU
            head, labels = ArcFace(8, 4).to("cuda"), torch.tensor([0, 3], device="cuda")
        head(torch.randn(2, 8, device="cuda"), labels).backward()

Create all tensors inside: a tensor from outside is refused, because it has values. Hooks of tensors do not run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "SYNCHRONISATIONS",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensorDeviceMismatchError",
    "WaitsForGPU",
    "fake_cuda",
]

_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class WaitsForGPU(AssertionError):
    """An operation for which the program waits until the GPU has finished."""


SYNCHRONISATIONS = (DataDependentOutputException, DynamicOutputShapeException, WaitsForGPU)
"""The exceptions of code that makes the program wait for the GPU."""


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeGPU]:
    """Make tensors on the device "cuda" fake; see the module. Backward runs, too."""
    replaced = {
        "torch.autograd._engine_run_backward": _run_backward,
        "torch.autograd.function.FunctionCtx.set_materialize_grads": _set_materialize_grads,
        "torch.nn.Module._apply": _convert,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        for name, function in replaced.items():
            stack.enter_context(patch(name, function))
        yield stack.enter_context(FakeGPU())


class FakeGPU(TorchDispatchMode):
    """Refuses or lists the copies between CPU and GPU that make the program wait.

    Attributes:
        waits: The operations inside `copies`, by name, that waited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._allowed = False

    @contextlib.contextmanager
    def copies(self) -> Iterator[list[str]]:
        """Allow copies between CPU and GPU, for set-up and for results; yields `waits`."""
        before, self._allowed = self._allowed, True
        try:
            yield self.waits
        finally:
            self._allowed = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func.namespace == "aten":  # of operations whose parts may wait
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if _waits(func, args, kwargs, result):
            if not self._allowed:
                raise WaitsForGPU(f"{func} makes the program wait for the GPU; use non_blocking, or stay on the GPU")
            self.waits.append(str(func))
        return result


def _waits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> bool:
    name = func.overloadpacket.__name__
    if name == "_to_copy":
        return args[0].is_cuda != result.is_cuda and not kwargs.get("non_blocking", False)
    if name == "copy_":
        return args[0].is_cuda != args[1].is_cuda and not (kwargs.get("non_blocking", False) or args[2:] == (True,))
    if name in _INDEXING and args[0].is_cuda:
        return _index_waits(name, args)
    return name == "_linalg_check_errors" and bool(args[0].is_cuda)


def _index_waits(name: str, args: Sequence[Any]) -> bool:
    """Return True for an index or a value on the CPU, or a boolean index, unless it is a fill with one number."""
    indices = [index for index in args[1] if index is not None]
    value_is_on_cpu = "put" in name and not args[2].is_cuda
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        return not (value_is_on_cpu and args[2].numel() == 1)
    return value_is_on_cpu or any(not index.is_cuda for index in indices)


def _convert(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """Replace parameters and buffers, for `module.to("cuda")`: torch cannot change those that are fake in place."""
    replaced = fn.__dict__.setdefault("replaced", {})  # a parameter may belong to several modules
    for child in module.children() if recurse else ():
        child._apply(fn)
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and tensor not in replaced:
                with torch.no_grad():
                    value = fn(tensor)
                replaced[tensor] = nn.Parameter(value, tensor.requires_grad) if tensors is module._parameters else value
            tensors[name] = None if tensor is None else replaced[tensor]
    return module


def _set_materialize_grads(ctx: Any, value: bool) -> None:
    """Set the attribute as torch does, and one that can be read."""
    ctx.materialize_grads = ctx.materialises = value


def _run_backward(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor],
    *options: bool,
    accumulate_grad: bool,
    **more: bool,
) -> tuple[Tensor | None, ...]:
    """Run backward through the graph in Python, because torch's own engine asks the driver for the device."""
    roots, wanted = map(get_gradient_edge, outputs), [get_gradient_edge(x) for x in inputs]
    received: dict[Any, dict[int, Tensor]] = {}

    def receive(node: Any, number: int, gradient: Tensor | None) -> None:
        if node is not None and gradient is not None:
            arrived, expected = received.setdefault(node, {}), node._input_metadata[number]
            if gradient.device != expected.device:
                raise FakeTensorDeviceMismatchError(node, expected.device, gradient.device)
            gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
            arrived[number] = arrived[number] + gradient if number in arrived else gradient

    for root, gradient in zip(roots, gradients, strict=True):
        receive(root.node, root.output_nr, gradient)
    with torch.set_grad_enabled(create_graph):
        for node in _sorted_nodes(list(received)):
            arrived = received.get(node)
            if not arrived:
                continue
            if (leaf := getattr(node, "variable", None)) is not None:  # the node that accumulates gradients
                if accumulate_grad and (not inputs or any(node is edge.node for edge in wanted)):
                    leaf.grad = arrived[0] if leaf.grad is None else leaf.grad + arrived[0]
                continue
            results = _apply(node, arrived)
            for (following, number), result in zip(node.next_functions, results, strict=False):
                receive(following, number, result)
    return tuple(received.get(edge.node, {}).get(edge.output_nr) for edge in wanted)


def _apply(node: Any, arrived: Mapping[int, Tensor]) -> tuple[Tensor | None, ...]:
    """Compute the gradients of a node's inputs; those of its outputs that are missing are zero."""
    given = [arrived.get(number) for number in range(len(node._input_metadata))]
    if not callable(node) and getattr(node, "materialises", True):  # an autograd.Function
        pairs = zip(given, node._input_metadata, strict=True)
        given = [torch.zeros(m.shape, dtype=m.dtype, device=m.device) if g is None else g for g, m in pairs]
    results = node(*given) if callable(node) else node.apply(*given)
    return results if isinstance(results, tuple) else (results,)


def _sorted_nodes(roots: Sequence[Any]) -> list[Any]:
    """Return the nodes of a graph, each before those that receive its gradients."""
    done: dict[Any, None] = {}
    stack = [(root, False) for root in roots]
    while stack:
        node, is_complete = stack.pop()
        if is_complete:
            done[node] = None
        elif node not in done:
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return list(reversed(done))
