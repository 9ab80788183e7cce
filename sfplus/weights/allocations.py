"""A limit on the tensors that the construction of a network may create."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SPARE = 64 << 20  # bytes of tensors that a library creates beside those of the network


class AllocationError(Exception):
    """More memory would be used than the limit."""


class _Limit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the sizes of new tensors, which functions without a tensor among their arguments create."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._remaining = limit

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Let torch not import its compiler for this mode, which would take more time than to read a model."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if not any(isinstance(arg, Tensor | list | tuple) and _has_tensor(arg) for arg in args):
            sizes = args[0] if args and isinstance(args[0], list | tuple) else ()
            dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            self._remaining -= math.prod(sizes) * dtype.itemsize if sizes else 0
            if self._remaining < 0:
                raise AllocationError
        return func(*args, **(kwargs or {}))


def _has_tensor(arg: Any) -> bool:
    return isinstance(arg, Tensor) or any(isinstance(item, Tensor) for item in arg)


def limit_to(tensors: Iterable[Tensor]) -> AbstractContextManager[None]:
    """Limit what the construction of a network may allocate to twice the size of its tensors, and some to spare."""
    return limit_allocations(2 * sum(4 * tensor.numel() for tensor in tensors) + _SPARE)


@contextmanager
def limit_allocations(limit: int) -> Iterator[None]:
    """Raise AllocationError in the block before new tensors take more than `limit` bytes."""
    with _Limit(limit):
        yield
