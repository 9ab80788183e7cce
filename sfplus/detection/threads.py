"""Work side by side: many small tensor operations go faster in one thread each than each in many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from sfplus.device import Device, single_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """As many lanes as torch may use threads; none on a GPU, which works side by side by itself."""

    def __init__(self, pool: ThreadPoolExecutor | None = None, count: int = 1) -> None:
        self._pool = pool
        self.count = count

    def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """`work` in a thread beside the lanes, which may `map`; without gradients."""
        return self._pool.submit(torch.inference_mode()(work), *arguments).result() if self._pool else work(*arguments)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
        """`work` of each item in some lane, in order; without gradients."""
        return self._pool.map(torch.inference_mode()(work), items) if self._pool else map(work, items)


@contextmanager
def open_lanes(device: Device) -> Iterator[Lanes]:
    """Lanes for some time."""
    count = 1 if device.is_cuda else torch.get_num_threads()
    if count == 1:
        yield Lanes()
        return
    with single_threads(count + 1) as pool:
        yield Lanes(pool, count)
